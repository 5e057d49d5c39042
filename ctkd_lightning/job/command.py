"""How the commands start and how they fail: in one line, where the user can put it right."""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf.errors import ConfigAttributeError, MissingMandatoryValue, OmegaConfBaseException

from ctkd_lightning.errors import UserError, suggest

_MENDABLE = (UserError, HydraException, OmegaConfBaseException, OSError)
_FULL_ERROR = "HYDRA_FULL_ERROR"


def config_dir() -> str:
    """The folder of the configuration: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return str(installed if installed.is_dir() else package.parent / "conf")


def hydra_main(config_name: str, task: Callable[[Any], None]) -> None:
    """Run ``task`` as a Hydra application over the package's configuration.

    An error that the user can mend is printed as one line, and the process exits with status 1; a sweep goes on with
    its other jobs first. With ``HYDRA_FULL_ERROR=1`` in the environment the traceback is shown instead.
    """
    _configure_logging()
    if os.environ.get(_FULL_ERROR) == "1":
        hydra.main(version_base="1.3", config_path=config_dir(), config_name=config_name)(task)()
        return

    sweep = _Sweep()

    @functools.wraps(task)
    def explained_task(cfg: Any) -> None:
        # here, too: Hydra prints a line of its own above what leaves the task
        with explained(), sweep.job(), _full_error(False):  # the processes that the task starts explain theirs
            task(cfg)

    with explained(), _full_error(True):  # errors arrive here as they were raised, not as Hydra would print them
        hydra.main(version_base="1.3", config_path=config_dir(), config_name=config_name)(explained_task)()
        sweep.close()


class _Sweep:
    """What became of a sweep's jobs; a single job it leaves alone."""

    def __init__(self) -> None:
        self.jobs = 0
        self.failed: list[int] = []

    @contextmanager
    def job(self) -> Iterator[None]:
        """Print an error that the user can mend, and let the sweep go on."""
        settings = HydraConfig.get()
        if settings.mode != RunMode.MULTIRUN:
            yield
            return
        self.jobs += 1
        try:
            yield
        except _MENDABLE as error:
            self.failed.append(settings.job.num)
            print(f"error in job {settings.job.num}: {one_line(error)}", file=sys.stderr)

    def close(self) -> None:
        """Say how many jobs failed.

        Raises:
            UserError: one or more did.
        """
        if self.failed:
            numbers = ", ".join(map(str, self.failed))
            raise UserError(f"{len(self.failed)} of {self.jobs} jobs failed: {numbers}; see their lines above")


@contextmanager
def _full_error(shown: bool) -> Iterator[None]:
    """Ask Hydra to leave errors as they are, or not, until the end of the block."""
    before = os.environ.pop(_FULL_ERROR, None)
    if shown:
        os.environ[_FULL_ERROR] = "1"
    try:
        yield
    finally:
        os.environ.pop(_FULL_ERROR, None)
        if before is not None:
            os.environ[_FULL_ERROR] = before


def _configure_logging() -> None:
    """Show what the package has to say on one process, and of Lightning the warnings."""
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: getattr(rank_zero_only, "rank", 0) == 0)
    package = logging.getLogger("ctkd_lightning")
    package.handlers = [handler]
    package.setLevel(logging.INFO)
    package.propagate = False
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def explained() -> Iterator[None]:
    """Exit with one line: status 1 on an error that the user can mend, 130 where the user stops the program."""
    try:
        yield
    except _MENDABLE as error:
        sys.exit(f"error: {one_line(error)}")
    except KeyboardInterrupt:
        print("stopped by the user", file=sys.stderr)
        sys.exit(130)  # as a shell says of a program that Ctrl-C ended


def one_line(error: BaseException) -> str:
    """What is wrong in a line: the user's error at the root of the chain if there is one."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for cause in chain:
        if isinstance(cause, UserError):
            return str(cause)
    for cause in reversed(chain):
        line = _explain(cause)
        if line:
            return " ".join(line.split())
    omegaconf = [str(cause) for cause in chain[1:2] if isinstance(cause, OmegaConfBaseException)]
    return _without_noise("\n".join([str(error), *omegaconf]))


def _explain(error: BaseException) -> str | None:
    """What an error means whose own message does not say it well; None of others."""
    if isinstance(error, OSError) and error.filename:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space" if full else "check its permissions"
        return f"cannot use {error.filename}: {error.strerror}; {advice} or choose another path"
    if isinstance(error, MissingMandatoryValue) and error.full_key:
        return f"{error.full_key} must be given: {error.full_key}=VALUE"
    if isinstance(error, ConfigAttributeError) and error.full_key == "method.terms":
        return "method must name at least one: method=kd, or several as in method=[kd,at]"
    if isinstance(error, MissingConfigException):
        return _explain_choice(error)
    if isinstance(error, InstantiationException):
        return _explain_call(error)
    return None


def _explain_choice(error: MissingConfigException) -> str | None:
    group, slash, name = (error.missing_cfg_file or "").rpartition("/")
    if not slash:
        return None
    # of a choice in a list, as in method=[kd,at], Hydra does not name the options
    options = error.options or [path.stem for path in Path(config_dir(), group).glob("*.yaml")]
    return f"Could not find '{group}/{name}': {suggest(name, options)}"


def _explain_call(error: InstantiationException) -> str | None:
    cause, key = error.__cause__, _key(str(error))
    if cause is None:
        return None
    if str(error).startswith("Error locating target"):
        return _after_key(key, str(cause))
    called = re.match(r"Error in (?:call to target '|creating partial\()([\w.]+)", str(error))
    if called is None:
        return None
    kind = "" if isinstance(cause, TypeError | ValueError) else f"{type(cause).__name__}: "
    return _after_key(key, f"cannot make {called[1].rpartition('.')[2]}: {kind}{cause}")


def _without_noise(message: str) -> str:
    """A message of Hydra or OmegaConf in one line, without what only their authors need."""
    key = _key(message)
    message = message.partition("Config search path:")[0]
    message = re.sub(r"^\s*(full_key: |object_type=|reference_type=).*$", "", message, flags=re.MULTILINE)
    return _after_key(key, " ".join(message.split()))


def _key(message: str) -> str:
    found = re.search(r"^\s*full_key: (.+)$", message, re.MULTILINE)
    return found[1] if found else ""


def _after_key(key: str, line: str) -> str:
    return line if key in line else f"{key}: {line}"
