"""How the commands start and how they fail: in one line, where the user can put it right.

Help and errors of composition come before torch and Lightning are imported, which takes seconds: nothing here needs
them.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

import hydra
from omegaconf import OmegaConf, open_dict

from ctkd_lightning._words import printable
from ctkd_lightning.job.configuration import compose, config_dir, options, with_home
from ctkd_lightning.job.explain import USER_ERRORS, one_line, out_of_memory
from ctkd_lightning.job.owner import launched_rank, owning
from ctkd_lightning.job.signals import INTERRUPTED, stopping
from ctkd_lightning.job.sweep import check_sweep, told_of_job

_FULL_ERROR = "HYDRA_FULL_ERROR"

# Warnings about what is as it should be here.
_EXPECTED_WARNINGS = (
    "Experiment logs directory .* exists and is not empty",  # by Hydra; a resumed run keeps its rows
    "Checkpoint directory .* exists and is not empty",
    "The number of training batches .* is smaller than the logging interval",  # metrics are logged by epoch
    r"It is recommended to use `self.log\('(ctkd|train)/.*sync_dist=True",  # these are means over the processes already
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
)


def hydra_main(
    config_name: str, task: Callable[[Any], Any], rewrite: Callable[[str], str] | None = None, *, sweeps: bool = True
) -> None:
    """Run ``task`` as a Hydra application over the package's configuration.

    An error that the user can put right is printed as one line, and the process exits with status 1; a sweep goes on
    with its other jobs first. With ``HYDRA_FULL_ERROR=1`` in the environment the traceback is shown instead.

    Args:
        config_name: the root of the configuration.
        task: from the composed configuration to what a sweeper optimises; it imports what is heavy itself.
        rewrite: from a word as users write it to Hydra's grammar, where the two differ.
        sweeps: whether ``-m`` makes sense.
    """
    _configure_logging()
    sys.argv[1:] = map(with_home, sys.argv[1:])
    if rewrite is not None:
        sys.argv[1:] = map(rewrite, sys.argv[1:])
    if {"--help", "-h"} & set(sys.argv[1:]):
        with explained():
            print(help_text(config_name, [word for word in sys.argv[1:] if not word.startswith("-")]))
        return
    if not sweeps and {"--multirun", "-m"} & set(sys.argv[1:]):
        sys.exit("error: -m is of ctkd_lightning.run alone, this command does one thing at a time: call it for each")
    if os.environ.get(_FULL_ERROR) == "1":
        with owning():
            hydra.main(version_base="1.3", config_path=config_dir(), config_name=config_name)(task)()
        return

    @functools.wraps(task)
    def explained_task(cfg: Any) -> Any:
        # here, too: Hydra prints a line of its own above what leaves the task
        with explained(), told_of_job(), _full_error(False):  # the processes that the task starts explain theirs
            return task(cfg)

    # errors arrive here as they were raised, not as Hydra would print them
    with explained(), owning(), _full_error(True):
        hydra.main(version_base="1.3", config_path=config_dir(), config_name=config_name)(explained_task)()
        check_sweep()


def help_text(config_name: str, overrides: list[str]) -> str:
    """The template in the configuration's ``hydra.help``, with all choices and the keys under these overrides.

    Hydra's own help takes twice as long: it reads every group of every plug-in, twice.
    """
    cfg = compose(overrides, config_name, return_hydra_config=True)
    template = cfg.hydra.help.template
    folders = sorted(path.name for path in Path(config_dir()).iterdir() if path.name in cfg.hydra.runtime.choices)
    groups = "".join(f"{group}: {', '.join(options(group))}\n" for group in folders)
    with open_dict(cfg):
        del cfg["hydra"]
    return Template(template).substitute(APP_CONFIG_GROUPS=groups, CONFIG=OmegaConf.to_yaml(cfg))


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
    """Show what the package has to say, on one process."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Shown())
    handler.addFilter(lambda record: _rank() == 0)
    package = logging.getLogger("ctkd_lightning")
    package.handlers = [handler]
    package.setLevel(logging.INFO)
    package.propagate = False


class _Shown(logging.Formatter):
    """Messages quote names from files."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record), lines=True)


def quiet_lightning() -> None:
    """Show of Lightning the unexpected warnings alone; once it is imported, since it sets its loggers' levels then."""
    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _rank() -> int:
    """The process's number: as Lightning says where it is loaded, else as the launcher does."""
    loaded = sys.modules.get("lightning.fabric.utilities.rank_zero")
    rank = getattr(getattr(loaded, "rank_zero_only", None), "rank", None)
    return launched_rank() if rank is None else int(rank)


@contextmanager
def explained() -> Iterator[None]:
    """Exit with one line: status 1 on an error that the user can put right, 130 by Ctrl-C and 143 by SIGTERM."""
    try:
        with stopping():
            yield
    except USER_ERRORS as error:
        sys.exit(f"error: {one_line(error)}")
    except (MemoryError, RuntimeError) as error:
        if (said := out_of_memory(error)) is None:
            raise
        sys.exit(f"error: {said}")
    except ValueError as error:
        if not str(error).startswith("Config group override must be"):  # Hydra's, of model=null
            raise
        sys.exit("error: a group takes one of its choices or a list of them, found null: --help names the choices")
    except KeyboardInterrupt:
        print("stopped by the user", file=sys.stderr)
        sys.exit(INTERRUPTED)
