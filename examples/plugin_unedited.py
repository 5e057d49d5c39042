"""Distil a LightningModule that knows nothing of distillation, without editing it: one callback.

python examples/plugin_unedited.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ctkd_lightning import CurriculumTemperatureCallback


class Classifier(LightningModule):
    """Somebody's own module, as it is."""

    def __init__(self, width: int, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
        self.learning_rate = learning_rate

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        return self.layers(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        x, y = batch
        return F.cross_entropy(self(x), y)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log how good it is."""
        x, y = batch
        self.log("accuracy", (self(x).argmax(dim=1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


def loaders() -> tuple[DataLoader, DataLoader]:
    x, y = load_digits(return_X_y=True)
    dataset = TensorDataset(torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y))
    train, test = torch.utils.data.random_split(dataset, [1200, 597], torch.Generator().manual_seed(0))
    return DataLoader(train, batch_size=64, shuffle=True), DataLoader(test, batch_size=597)


def train(module: LightningModule, *callbacks: CurriculumTemperatureCallback, epochs: int = 15) -> float:
    train_loader, test_loader = loaders()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, train_loader)
    return trainer.test(module, test_loader, verbose=False)[0]["accuracy"]


def main() -> dict[str, float]:
    seed_everything(0, verbose=False)
    teacher = Classifier(width=256)
    results = {"teacher": train(teacher), "student alone": train(Classifier(width=32))}

    distil = CurriculumTemperatureCallback(teacher=teacher)  # this is all
    results["student distilled"] = train(Classifier(width=32), distil)

    results["temperature"] = distil.temperature(None, None).item()
    return results


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:20}{value:8.3f}")
