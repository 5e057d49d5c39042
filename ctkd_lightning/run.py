"""``python -m ctkd_lightning.run``: the teacher if need be, then the student, its test and the closing table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ctkd_lightning.job.command import hydra_main, quiet_lightning

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """Entry point of the command."""
    hydra_main("config", run)


def run(cfg: DictConfig) -> float | None:
    """Run one job; of a sweep's, those that need it get an interpreter of their own.

    Each process of a job starts from the command line and would start the whole sweep again; and a job that is killed
    in a launcher's process takes the launcher's other jobs, or their count, with it.

    Returns:
        ``objective``: what a sweeper makes the most of, or the least; ``None`` where the run has no such number.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from ctkd_lightning.job.objective import read_objective
    from ctkd_lightning.job.own_process import run_in_own_process
    from ctkd_lightning.job.owner import launched_rank
    from ctkd_lightning.job.run_directory import RunDirectory

    hydra_config = HydraConfig.get()
    run_dir = Path(hydra_config.runtime.output_dir)
    overrides, choices = list(hydra_config.overrides.task), dict(hydra_config.runtime.choices)
    if hydra_config.mode == RunMode.MULTIRUN and (choices["hydra/launcher"] != "basic" or _several(cfg)):
        run_in_own_process(overrides, run_dir)
    else:
        _run_here(cfg, run_dir, choices, overrides)
    return None if launched_rank() else read_objective(RunDirectory(run_dir), cfg.objective)


def _several(cfg: DictConfig) -> bool:
    """Whether a job has several processes on this machine."""
    from ctkd_lightning.job.preflight import check_parts, count_processes

    check_parts(cfg)
    return count_processes(cfg.trainer) > 1


def _run_here(cfg: DictConfig, run_dir: Path, choices: dict[str, str], overrides: list[str]) -> None:
    # here, so that help and errors of composition need not wait for torch
    from ctkd_lightning.job import distil, fuse
    from ctkd_lightning.job.preflight import check_parts
    from ctkd_lightning.reporting import report_run

    quiet_lightning()
    check_parts(cfg)
    if cfg.get("fusion"):
        fuse(cfg, run_dir, choices, overrides)
    else:
        distil(cfg, run_dir, choices, overrides, report_run if cfg.report else None)


if __name__ == "__main__":
    main()
