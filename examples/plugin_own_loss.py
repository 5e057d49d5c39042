"""A module with a distillation loss of its own, and a learned temperature in it: the callback drives the temperature.

python examples/plugin_own_loss.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ctkd_lightning import CosineCurriculum, CurriculumTemperatureCallback, GlobalTemperature
from ctkd_lightning.methods import kd_loss


def network(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


class Distilled(LightningModule):
    """Two losses, one temperature."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = network(32), teacher.eval().requires_grad_(False)
        self.temperature = GlobalTemperature()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        x, y = batch
        student, teacher = self.student(x), self.teacher(x)
        tau = self.temperature(student, teacher)
        return 0.1 * F.cross_entropy(student, y) + 0.9 * kd_loss(student, teacher, tau)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer."""
        return torch.optim.Adam(self.student.parameters(), lr=0.01)  # the callback adds the temperature


def main() -> dict[str, float]:
    seed_everything(0, verbose=False)
    x, y = load_digits(return_X_y=True)
    images, labels = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    teacher = network(256)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(teacher(images[:1200]), labels[:1200]).backward()
        optimizer.step()

    module = Distilled(teacher)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=15,
        callbacks=[CurriculumTemperatureCallback(CosineCurriculum(epochs=5), learning_rate=0.02)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(images[:1200], labels[:1200]), batch_size=64, shuffle=True))

    def accuracy(net: nn.Module) -> float:
        with torch.no_grad():
            return (net(images[1200:]).argmax(dim=1) == labels[1200:]).float().mean().item()

    return {
        "teacher": accuracy(module.teacher),
        "student distilled": accuracy(module.student),
        "temperature": float(trainer.callback_metrics["ctkd/temperature"]),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:20}{value:8.3f}")
