"""``python -m ctkd_lightning.evaluate``: what the networks of a run, or of a checkpoint, are worth and cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctkd_lightning.job.command import hydra_main, quiet_lightning
from ctkd_lightning.job.configuration import one_network

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """Entry point of the command."""
    hydra_main("evaluate", run, rewrite=one_network, sweeps=False)


def run(cfg: DictConfig) -> None:
    """Evaluate."""
    # here, so that help and errors of composition need not wait for torch
    from hydra.core.hydra_config import HydraConfig

    from ctkd_lightning.job import evaluate

    quiet_lightning()
    evaluate(cfg, HydraConfig.get().overrides.task)


if __name__ == "__main__":
    main()
