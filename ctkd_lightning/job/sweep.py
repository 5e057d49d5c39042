"""What became of a sweep's jobs, wherever its launcher runs them."""

from __future__ import annotations

import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.explain import USER_ERRORS, described, one_line

_FOLDER = ".jobs"  # in the sweep's: a file for each job, empty once it has ended well


def tell(sweep_dir: str | Path, job: int, error: str) -> None:
    """Keep what became of a job for the sweep's end; an empty ``error`` is a good ending."""
    file = Path(sweep_dir) / _FOLDER / str(job)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(error)


@contextmanager
def told_of_job() -> Iterator[None]:
    """Print an error of a sweep's job and let the others go on; a job that is none of a sweep it leaves.

    The job may be in a process of its own, or on another machine: files in the sweep's folder tell what became of it.
    """
    settings = HydraConfig.get()
    if settings.mode != RunMode.MULTIRUN:
        yield
        return
    folder, number = settings.sweep.dir, settings.job.num
    tell(folder, number, "it ended early")
    try:
        yield
    except Exception as error:
        tell(folder, number, described(error))
        if isinstance(error, USER_ERRORS):
            print(f"error in job {number}: {one_line(error)}", file=sys.stderr)
        else:  # a bug, which a line does not explain
            print(f"error in job {number}:\n{traceback.format_exc()}", file=sys.stderr)
    else:
        tell(folder, number, "")


class SweepJobs(Callback):
    """Count a sweep's jobs at its end.

    Attributes:
        ended: of the last sweep of this process, from each job's number to its error, empty where there was none.
    """

    ended: ClassVar[dict[int, str]] = {}

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        """Begin anew, whatever another sweep has left in the folder."""
        shutil.rmtree(Path(config.hydra.sweep.dir) / _FOLDER, ignore_errors=True)

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        """Read and remove what the jobs have told."""
        folder = Path(config.hydra.sweep.dir) / _FOLDER
        if folder.is_dir():
            SweepJobs.ended = {int(path.name): path.read_text() for path in folder.iterdir()}
            shutil.rmtree(folder, ignore_errors=True)


def check_sweep() -> None:
    """Say how many jobs of the last sweep failed, if there was one.

    Raises:
        UserError: one or more did.
    """
    ended, SweepJobs.ended = SweepJobs.ended, {}
    failed = sorted(number for number, error in ended.items() if error)
    if failed:
        numbers = ", ".join(map(str, failed))
        raise UserError(f"{len(failed)} of {len(ended)} jobs failed: {numbers}; see their lines above")
