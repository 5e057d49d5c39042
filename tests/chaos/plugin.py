"""The callback beside a module that knows nothing of it."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, seed_everything

from ctkd_lightning import CurriculumTemperatureCallback, InstanceTemperature
from tests.chaos.module import fit, network


class Classifier(LightningModule):
    """As others write it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self(batch.image), batch.target)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def main() -> None:
    """Train in the folder that ``run_dir=`` names."""
    seed_everything(1, verbose=False)
    plugin = CurriculumTemperatureCallback(teacher=network(1).eval(), temperature=InstanceTemperature(num_classes=4))
    fit(Classifier(), next(word for word in sys.argv if word.startswith("run_dir=")).removeprefix("run_dir="), plugin)
