"""Networks that return an object with ``.logits``, and batches that are dictionaries, as Hugging Face's do.

python examples/plugin_logits_output.py
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ctkd_lightning import CurriculumTemperatureCallback
from ctkd_lightning.methods import DKD


@dataclass
class ClassifierOutput:
    """What such a model returns."""

    loss: Tensor | None
    logits: Tensor


class Model(nn.Module):
    """Computes its own loss where it is given labels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ClassifierOutput:
        """Logits of a batch."""
        logits = self.layers(pixel_values)
        return ClassifierOutput(None if labels is None else F.cross_entropy(logits, labels), logits)


class FineTuning(LightningModule):
    """Fine-tunes any such model."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        return self.model(**batch).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def train(model: Model, dataset: list[dict[str, Tensor]], *callbacks: CurriculumTemperatureCallback) -> None:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=12,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(FineTuning(model), DataLoader(dataset, batch_size=64, shuffle=True))


def main() -> dict[str, float]:
    seed_everything(0, verbose=False)
    x, y = load_digits(return_X_y=True)
    images, labels = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    dataset = [{"pixel_values": image, "labels": label} for image, label in zip(images[:1200], labels, strict=False)]

    teacher, student = Model(256), Model(32)
    train(teacher, dataset)
    # the step calls self.model; its logits, and DKD's target under "labels", are found
    distil = CurriculumTemperatureCallback(teacher=teacher, student="model", method=DKD(beta=2.0), ce_weight=1.0)
    train(student, dataset, distil)

    def accuracy(model: Model) -> float:
        with torch.no_grad():
            return (model(images[1200:]).logits.argmax(dim=1) == labels[1200:]).float().mean().item()

    return {
        "teacher": accuracy(teacher),
        "student distilled": accuracy(student),
        "temperature": distil.temperature(None, None).item(),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:20}{value:8.3f}")
