"""``python -m ctkd_lightning.report``: one HTML page over a run or many, with its figures as files beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctkd_lightning.job.command import hydra_main

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """Entry point of the command."""
    hydra_main("report", report, sweeps=False)


def report(cfg: DictConfig) -> None:
    """Write the page, and print where it is."""
    # here, so that help and errors of composition need not wait for torch
    from ctkd_lightning.errors import UserError
    from ctkd_lightning.reporting import write_report
    from ctkd_lightning.reporting.runs import find_runs

    if not isinstance(cfg.overwrite, bool):
        raise UserError(f"overwrite must be true or false, found {cfg.overwrite}")
    patterns = [cfg.runs] if isinstance(cfg.runs, str) else cfg.runs or []
    print(write_report(find_runs(patterns), cfg.output, overwrite=cfg.overwrite))


if __name__ == "__main__":
    main()
