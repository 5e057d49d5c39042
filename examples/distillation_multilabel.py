"""Several labels a sample: which digits are on a canvas of two to four?

The teacher has learned from 1200 canvases. The student has 400, where whoever labelled them overlooked a quarter of the
digits. It learns twice from the same weights and as long: from these labels alone, and with the teacher's answers for
the same 400 canvases. The score is F1 over all labels of canvases made of other digits.

python examples/distillation_multilabel.py
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from statistics import mean, pstdev

import torch
from lightning.pytorch import Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ctkd_lightning import CosineCurriculum, DistillationModule, GlobalTemperature
from ctkd_lightning.modules import ClassifierModule, SupervisedModule

EPOCHS = 20


def network(width: int) -> nn.Module:
    """From canvases (B, 1, 16, 16) to logits (B, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 4),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 10),
    )


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of all networks."""
    return torch.optim.Adam(parameters, lr=0.005)


def alone(network: nn.Module) -> ClassifierModule:
    """A network that learns from the labels: binary cross-entropy of each."""
    return ClassifierModule(network, task="multilabel", optimizer=adam)


def distilled(teacher: nn.Module, student: nn.Module) -> DistillationModule:
    """A student that learns from both, at a learned temperature; each label's logit x is softened as (x, 0)."""
    return DistillationModule(
        teacher,
        student,
        temperature=GlobalTemperature(tau_init=1.0, tau_range=4.0),
        curriculum=CosineCurriculum(epochs=EPOCHS // 2),
        task="multilabel",
        optimizer=adam,
    )


def canvases(count: int, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Canvases (N, 1, 16, 16) with two to four of these digits in their quarters, and labels (N, 10)."""
    images, classes = load_digits(return_X_y=True)
    digits, classes = torch.tensor(images[first:last] / 16).float().view(-1, 8, 8), torch.tensor(classes[first:last])
    chosen = torch.randint(len(digits), (count, 4))
    there = torch.rand(count, 4).argsort(dim=1) < torch.randint(2, 5, (count, 1))
    quarters = digits[chosen] * there[..., None, None]
    canvas = quarters.view(count, 2, 2, 8, 8).transpose(2, 3).reshape(count, 1, 16, 16)
    return canvas, torch.zeros(count, 10).scatter_reduce(1, classes[chosen], there.float(), "amax")


def overlooked(target: Tensor, share: float = 0.25) -> Tensor:
    """The labels, but for a share of those that are there."""
    return target * (torch.rand_like(target) >= share)


def fit(module: SupervisedModule, train: Dataset, test: Dataset, epochs: int = EPOCHS) -> float:
    """Train; F1 on test data in percent."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(train, batch_size=20, shuffle=True))
    return trainer.test(module, DataLoader(test, batch_size=500), verbose=False)[0]["test/f1"]


def compare(seed: int) -> dict[str, float]:
    """One teacher, and a student without and with it."""
    seed_everything(seed, verbose=False)
    test = TensorDataset(*canvases(500, 1200, 1797))
    x, y = canvases(400, 0, 1200)
    few = TensorDataset(x, overlooked(y))

    teacher, student = network(16), network(12)
    results = {"teacher": fit(alone(teacher), TensorDataset(*canvases(1200, 0, 1200)), test, epochs=6)}
    module = distilled(teacher, deepcopy(student))
    results["student alone"] = fit(alone(student), few, test)
    results["student distilled"] = fit(module, few, test)
    gain = results["student distilled"] - results["student alone"]
    return {**results, "gain": gain, "temperature": module.temperature(None, None).item()}


def main(seeds: Sequence[int] = (0, 1, 2)) -> dict[str, float]:
    """Print means and deviations over the seeds, and return the means."""
    runs = [compare(seed) for seed in seeds]
    results = {name: [run[name] for run in runs] for name in runs[0]}
    for name, values in results.items():
        print(f"{name:20}{mean(values):8.2f} ± {pstdev(values):.2f}" + ("" if name == "temperature" else " % F1"))
    return {name: mean(values) for name, values in results.items()}


if __name__ == "__main__":
    main()
