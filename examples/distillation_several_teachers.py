"""Several teachers, one of them broken: it has learned random labels by heart.

Two teachers have learned from 600 digits. The third has learned random labels of 600 others: there it is as sure as
they are, and wrong nine times out of ten. On these others a student learns, at a fixed temperature, from the two good
teachers; then, from the same weights, from all three, fused in three ways: by their plain average, with a learned
temperature for each teacher, and with one for each teacher and sample. Which teacher is broken nobody says: the fusion
finds out by the labels that the student learns from, too.

The good teachers are small enough to be unsure where the broken one is not: of better ones the average suffers less.

python examples/distillation_several_teachers.py [--seeds 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from copy import deepcopy
from statistics import mean, pstdev

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ctkd_lightning import Distillation, FixedTemperature

EPOCHS, BATCH = 30, 64
WAYS = {"averaged": "fixed", "global": "global", "instance": "instance"}


def network(width: int) -> nn.Module:
    """From digits (B, 64) to logits (B, 10)."""
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def train_teacher(x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    """A wide network, trained as ever."""
    teacher = network(256)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.005)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(200):
            optimizer.zero_grad()
            F.cross_entropy(teacher(x[rows]), y[rows]).backward()
            optimizer.step()
    return teacher


def distilled(teachers: Mapping[str, nn.Module], student: nn.Module, fusion: str) -> Distillation:
    """A student that learns from all teachers, and the temperatures of their fusion."""
    return Distillation(student, teachers, temperature=FixedTemperature(2.0), teacher_fusion=fusion)


def distil(distillation: Distillation, x: Tensor, y: Tensor, epochs: int = EPOCHS) -> None:
    """Train the student and the fusion's temperatures."""
    optimizer = torch.optim.Adam(distillation.parameters(), lr=0.01)  # not the teachers
    for epoch in range(epochs):
        distillation.progress(epoch, epoch / epochs)
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            distillation(x[rows], target=y[rows])["loss"].backward()
            optimizer.step()


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """In percent."""
    return 100 * (network(x).argmax(dim=1) == y).float().mean().item()


@torch.no_grad()
def share_of_broken(distillation: Distillation, teachers: Mapping[str, nn.Module], x: Tensor) -> float:
    """How far the broken teacher counts, in percent: the mean of its 1/τ, which sum to 1 over the teachers."""
    assert distillation.teacher_fusion is not None
    _, tau = distillation.teacher_fusion({name: teacher(x) for name, teacher in teachers.items()})
    return 100 * (1 / tau["broken"]).mean().item()


def compare(seed: int) -> dict[str, float]:
    """Three teachers, and the student of the good ones, and of all three in three ways."""
    torch.manual_seed(seed)
    images, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(classes)
    theirs, ours, test = slice(0, 600), slice(600, 1200), slice(1200, None)

    teachers = {
        "first": train_teacher(x[theirs], y[theirs], epochs=40),
        "second": train_teacher(x[theirs], y[theirs], epochs=40),
        "broken": train_teacher(x[ours], torch.randint(10, (600,)), epochs=300),
    }
    results = {f"teacher, {name}": accuracy(teacher, x[test], y[test]) for name, teacher in teachers.items()}
    student = network(32)
    good = {name: teachers[name] for name in ("first", "second")}
    for name, given, fusion in [("the good two", good, "fixed"), *((n, teachers, way) for n, way in WAYS.items())]:
        distillation = distilled(given, deepcopy(student), fusion)
        distil(distillation, x[ours], y[ours])
        results[f"student, {name}"] = accuracy(distillation.student, x[test], y[test])
        if given is teachers:
            results[f"share of the broken, {name}"] = share_of_broken(distillation, teachers, x[ours])
    return results


def main(seeds: Sequence[int] = (0, 1, 2)) -> dict[str, float]:
    """Print means and deviations over the seeds, and return the means."""
    runs = [compare(seed) for seed in seeds]
    results = {name: [run[name] for run in runs] for name in runs[0]}
    for name, values in results.items():
        print(f"{name:30}{mean(values):8.2f} ± {pstdev(values):.2f} %")
    return {name: mean(values) for name, values in results.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Distil three teachers of which one is broken.")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    main(range(parser.parse_args().seeds))
