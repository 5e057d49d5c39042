"""Pages that come by themselves, at the end of a run and of a sweep: they never fail what they are about."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


class SweepReport(Callback):
    """Once a sweep has ended, with whatever launcher, the page over its folder."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write the page of the sweep's runs, where that is asked for."""
        if config.report and not config.get("fusion"):
            with _never_failing():
                from ctkd_lightning.reporting.runs import find_runs, read_runs

                folder = Path(config.hydra.sweep.dir)
                runs = find_runs([glob.escape(str(folder))])
                if read_runs(runs, own=True).runs:  # where all failed, their own lines have said so
                    _report(runs, folder)


def report_run(folder: Path) -> None:
    """Write the page of one run into its folder, in the place of an earlier one."""
    with _never_failing():
        _report([folder], folder)


def _report(runs: list[Path], folder: Path) -> None:
    from ctkd_lightning.reporting.page import write_report  # here: Hydra makes its callbacks before torch is needed

    log.info("Report: %s", write_report(runs, folder / "report.html", overwrite=True, own=True))


@contextmanager
def _never_failing() -> Iterator[None]:
    """Warn in a line of whatever goes wrong: the runs are done, and their numbers are kept."""
    try:
        yield
    except Exception as error:
        from ctkd_lightning.job.explain import described

        log.warning("No report: %s", described(error))
