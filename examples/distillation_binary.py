"""One logit a sample: is a digit five or more?

The teacher has learned from 1200 digits. The student has 300 of them, a fifth with the wrong label, and learns twice
from the same weights and as long: from these labels alone, and with the teacher's answers for the same 300 digits.

python examples/distillation_binary.py
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

SAMPLES, EPOCHS = 300, 25


def network(width: int) -> nn.Module:
    """From digits (B, 64) to logits (B, 1)."""
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 1))


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of all networks."""
    return torch.optim.Adam(parameters, lr=0.01)


def alone(network: nn.Module) -> ClassifierModule:
    """A network that learns from the labels: binary cross-entropy."""
    return ClassifierModule(network, task="binary", optimizer=adam)


def distilled(teacher: nn.Module, student: nn.Module) -> DistillationModule:
    """A student that learns from both, at a learned temperature; a logit x is softened as the two-class (x, 0)."""
    return DistillationModule(
        teacher,
        student,
        temperature=GlobalTemperature(tau_init=1.0, tau_range=4.0),
        curriculum=CosineCurriculum(epochs=EPOCHS // 2),
        task="binary",
        optimizer=adam,
    )


def digits() -> tuple[Tensor, Tensor]:
    """Digits (N, 64), and whether each is five or more: ones and zeros (N, 1)."""
    images, classes = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(classes >= 5).float().unsqueeze(1)


def mislabelled(target: Tensor, share: float = 0.2) -> Tensor:
    """The target with a share of the labels turned round."""
    return torch.where(torch.rand_like(target) < share, 1 - target, target)


def fit(module: SupervisedModule, train: Dataset, test: Dataset, epochs: int = EPOCHS) -> float:
    """Train; the accuracy on test data in percent."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(train, batch_size=32, shuffle=True))
    return trainer.test(module, DataLoader(test, batch_size=1000), verbose=False)[0]["test/accuracy"]


def compare(seed: int) -> dict[str, float]:
    """One teacher, and a student without and with it."""
    seed_everything(seed, verbose=False)
    x, y = digits()
    test = TensorDataset(x[1200:], y[1200:])
    chosen = torch.randperm(1200)[:SAMPLES]
    few = TensorDataset(x[chosen], mislabelled(y[chosen]))

    teacher, student = network(256), network(32)
    results = {"teacher": fit(alone(teacher), TensorDataset(x[:1200], y[:1200]), test, epochs=15)}
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
        print(f"{name:20}{mean(values):8.2f} ± {pstdev(values):.2f}" + ("" if name == "temperature" else " % right"))
    return {name: mean(values) for name, values in results.items()}


if __name__ == "__main__":
    main()
