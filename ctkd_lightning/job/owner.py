"""One run at a time in a run directory, one sweep in a sweep's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from ctkd_lightning._files import owned
from ctkd_lightning.errors import UserError

_held = ExitStack()


class RunOwner(Callback):
    """Take the folder before Hydra writes the configuration into it."""

    def on_run_start(self, config: Any, **_: Any) -> None:
        """That of a run."""
        _take(config.hydra.run.dir)

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        """That of a sweep."""
        _take(config.hydra.sweep.dir)


def _take(folder: str) -> None:
    if launched_rank():
        return  # the first process has it
    try:
        _held.enter_context(owned(Path(folder)))
    except UserError as error:
        sys.exit(f"error: run_dir={error}")  # Hydra makes warnings of errors in callbacks


@contextmanager
def owning() -> Iterator[None]:
    """Give back at the end of the block what was taken in it."""
    try:
        yield
    finally:
        _held.close()


def launched_rank() -> int:
    """The process's number as the launcher says: 0 of the first one, and where there is one alone."""
    launchers = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return int(next((os.environ[name] for name in launchers if name in os.environ), 0))
