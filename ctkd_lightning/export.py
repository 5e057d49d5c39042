"""``python -m ctkd_lightning.export``: the student of a run, as one file that is checked against the original."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctkd_lightning.job.command import hydra_main, quiet_lightning

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """Entry point of the command."""
    hydra_main("export", export, sweeps=False)


def export(cfg: DictConfig) -> None:
    """Export one student."""
    # here, so that help, errors of composition and of settings need not wait for torch
    from ctkd_lightning.exporting.settings import read_settings

    settings = read_settings(cfg)
    from ctkd_lightning.exporting.student import export_student

    quiet_lightning()
    export_student(settings)


if __name__ == "__main__":
    main()
