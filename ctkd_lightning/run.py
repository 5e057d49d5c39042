"""``python -m ctkd_lightning.run``: the teacher if need be, then the student, its test and the closing table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ctkd_lightning.job.command import hydra_main, quiet_lightning

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """Entry point of the command."""
    hydra_main("config", run)


def run(cfg: DictConfig) -> float | None:
    """Run one job; a sweep's job of several processes gets an interpreter of its own.

    Each of its processes starts from the command line and would start the whole sweep again.

    Returns:
        As :func:`ctkd_lightning.job.distil` or :func:`ctkd_lightning.job.fuse`: what a sweeper makes the most of.
    """
    # here, so that help and errors of composition need not wait for torch
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from ctkd_lightning.errors import UserError
    from ctkd_lightning.job import RunDirectory, distil, fuse, read_summary
    from ctkd_lightning.job.preflight import check_fusion_settings, check_parts, check_settings, count_processes
    from ctkd_lightning.reporting import report_run

    quiet_lightning()
    check_parts(cfg)
    hydra_config = HydraConfig.get()
    run_dir = Path(hydra_config.runtime.output_dir)
    overrides = list(hydra_config.overrides.task)
    if hydra_config.mode != RunMode.MULTIRUN or count_processes(cfg.trainer) == 1:
        choices = dict(hydra_config.runtime.choices)
        if cfg.get("fusion"):
            return fuse(cfg, run_dir, choices, overrides)
        return distil(cfg, run_dir, choices, overrides, report_run if cfg.report else None)
    check_fusion_settings(cfg) if cfg.get("fusion") else check_settings(cfg)
    settings = [override for override in overrides if not override.startswith("run_dir=")]
    process = subprocess.run([sys.executable, "-m", "ctkd_lightning.run", *settings, f"run_dir='{run_dir}'"])
    if process.returncode:
        raise UserError(f"the sweep's job in {run_dir} failed with status {process.returncode}; see its messages above")
    summary = read_summary(RunDirectory(run_dir))
    return None if summary is None else summary.best.top1


if __name__ == "__main__":
    main()
