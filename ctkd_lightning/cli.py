"""How the commands start and how they fail: in one line, where the user can put it right."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from lightning.pytorch.utilities import rank_zero_only
from omegaconf.errors import OmegaConfBaseException

from ctkd_lightning.errors import UserError


def config_dir() -> str:
    """The folder of the configuration: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return str(installed if installed.is_dir() else package.parent / "conf")


def hydra_main(config_name: str, task: Callable[[Any], None]) -> None:
    """Run ``task`` as a Hydra application over the package's configuration.

    An error that the user can mend is printed as one line, and the process exits with status 1. With
    ``HYDRA_FULL_ERROR=1`` in the environment the traceback is shown instead.
    """
    _configure_logging()
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        hydra.main(version_base="1.3", config_path=config_dir(), config_name=config_name)(task)()
        return

    @functools.wraps(task)
    def explained_task(cfg: Any) -> None:
        with explained():  # here, too: Hydra prints a line of its own above what leaves the task
            task(cfg)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors arrive here as they were raised, not as Hydra would print them
    try:
        with explained():
            hydra.main(version_base="1.3", config_path=config_dir(), config_name=config_name)(explained_task)()
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


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
    """Exit with status 1 and one line on an error that the user can mend."""
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        sys.exit(f"error: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """What is wrong in a line: the user's error at the root of the chain if there is one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        cause = cause.__cause__
    parts = [str(error)]
    if isinstance(error.__cause__, OmegaConfBaseException):
        parts.append(str(error.__cause__))
    if isinstance(error, OSError) and error.filename:
        parts = [f"cannot use {error.filename}: {error.strerror}; choose another run_dir or file"]
    return " ".join(" ".join(parts).split())
