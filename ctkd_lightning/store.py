"""``python -m ctkd_lightning.store``: what a language model gives for each token, kept for its students."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctkd_lightning.job.command import hydra_main, quiet_lightning

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """Entry point of the command."""
    hydra_main("store", store, sweeps=False)


def store(cfg: DictConfig) -> None:
    """Write one store."""
    # here, so that help, errors of composition and of settings need not wait for torch
    from ctkd_lightning.storing.settings import read_settings

    settings = read_settings(cfg)
    from ctkd_lightning.storing.storing import write_store

    quiet_lightning()
    write_store(settings)


if __name__ == "__main__":
    main()
