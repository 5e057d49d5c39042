"""Several teachers, one of them broken: it has learned random labels by heart.

Two teachers have learned from 1200 digits, the third from the same digits with random labels: it is as sure as they
are, and wrong. A student learns from the same digits and the two good teachers; then, from the same weights, from all
three, fused in three ways: their plain average, a learned temperature for each teacher, and one for each teacher and
sample. The fusion is told nothing of which teacher is broken.

python examples/distillation_several_teachers.py [--seeds 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from copy import deepcopy
from statistics import mean, pstdev

import torch
from lightning.pytorch import Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ctkd_lightning import CosineCurriculum, DistillationModule
from ctkd_lightning.fusion.teachers import TeacherFusion
from ctkd_lightning.modules import ClassifierModule, SupervisedModule

TRAIN, EPOCHS = 1200, 20


def network(width: int) -> nn.Module:
    """From digits (B, 64) to logits (B, 10)."""
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of all networks."""
    return torch.optim.Adam(parameters, lr=0.01)


def distilled(teachers: dict[str, nn.Module], student: nn.Module, fusion: TeacherFusion) -> DistillationModule:
    """A student that learns from all teachers, and the temperatures of their fusion."""
    return DistillationModule(
        teachers, student, teacher_fusion=fusion, curriculum=CosineCurriculum(epochs=EPOCHS // 4), optimizer=adam
    )


def digits() -> tuple[Tensor, Tensor]:
    """Digits (N, 64) and their classes."""
    images, classes = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(classes)


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
    trainer.fit(module, DataLoader(train, batch_size=64, shuffle=True))
    return trainer.test(module, DataLoader(test, batch_size=1000), verbose=False)[0]["test/top1"]


def compare(seed: int) -> dict[str, float]:
    """Three teachers, and the student of the good ones, and of all three in three ways."""
    seed_everything(seed, verbose=False)
    x, y = digits()
    train, test = TensorDataset(x[:TRAIN], y[:TRAIN]), TensorDataset(x[TRAIN:], y[TRAIN:])
    at_random = TensorDataset(x[:TRAIN], torch.randint(10, (TRAIN,)))

    teachers = {"first": network(256), "second": network(256), "broken": network(256)}
    results = {
        f"teacher {name}": fit(
            ClassifierModule(teacher, optimizer=adam),
            at_random if name == "broken" else train,
            test,
            60 if name == "broken" else 20,
        )
        for name, teacher in teachers.items()
    }
    student = network(32)
    good = {name: teachers[name] for name in ("first", "second")}
    results["student of the good two"] = fit(distilled(good, deepcopy(student), "fixed"), train, test)
    for fusion, name in (("fixed", "averaged"), ("global", "global"), ("instance", "instance")):
        module = distilled(teachers, deepcopy(student), fusion)
        results[f"student of all, {name}"] = fit(module, train, test)
        import sys

        with torch.no_grad():
            z = torch.stack([t(x) for t in teachers.values()], 1).unbind(1)
            z = dict(zip(teachers, z))
            f, tau = module.teacher_fusion(z)
            print(
                name,
                {n: t.mean().item() for n, t in tau.items()},
                "fused acc",
                (f[:1200].argmax(1) == y[:1200]).float().mean(),
                (f[1200:].argmax(1) == y[1200:]).float().mean(),
                "KD tau",
                module.temperature(None, None).item(),
                "fused maxp",
                f.exp().max(1)[0].mean(),
            )
    print("broken train acc", (teachers["broken"](x[:1200]).argmax(1) == at_random.tensors[1]).float().mean())
    return results


def main(seeds: Sequence[int] = (0, 1, 2)) -> dict[str, float]:
    """Print means and deviations over the seeds, and return the means."""
    runs = [compare(seed) for seed in seeds]
    results = {name: [run[name] for run in runs] for name in runs[0]}
    for name, values in results.items():
        print(f"{name:28}{mean(values):8.2f} ± {pstdev(values):.2f} % right")
    return {name: mean(values) for name, values in results.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    main(range(parser.parse_args().seeds))
