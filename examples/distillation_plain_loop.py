"""The engine in a plain PyTorch loop, without Lightning: any loop, any optimizer.

python examples/distillation_plain_loop.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ctkd_lightning import CosineCurriculum, Distillation

EPOCHS, BATCH = 15, 64


def network(width: int) -> nn.Module:
    """From digits (B, 64) to logits (B, 10)."""
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def train_teacher(x: Tensor, y: Tensor) -> nn.Module:
    """A wide network, trained as ever."""
    teacher = network(256)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(teacher(x), y).backward()
        optimizer.step()
    return teacher


def distil(distillation: Distillation, x: Tensor, y: Tensor, epochs: int = EPOCHS) -> list[dict[str, float]]:
    """Train the student and the temperature; each epoch's mean losses."""
    optimizer = torch.optim.Adam(distillation.parameters(), lr=0.01)  # student and temperature; not the teacher
    history = []
    for epoch in range(epochs):
        distillation.progress(epoch, epoch / epochs)  # sets λ
        for rows in torch.randperm(len(x)).split(BATCH):
            losses = distillation(x[rows], target=y[rows])
            optimizer.zero_grad()
            losses["loss"].backward()
            optimizer.step()
        history.append({name: value.item() for name, value in distillation.collect().items()})
    return history


def main(seed: int = 0) -> dict[str, float]:
    torch.manual_seed(seed)
    images, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(classes)
    teacher, student = train_teacher(x[:1200], y[:1200]), network(32)
    distillation = Distillation(student, teacher, curriculum=CosineCurriculum(epochs=5))
    for epoch, losses in enumerate(distil(distillation, x[:1200], y[:1200]), start=1):
        print(f"epoch {epoch:3}", *(f"{name} {value:.4f}" for name, value in losses.items()))

    def accuracy(net: nn.Module) -> float:
        with torch.no_grad():
            return (net(x[1200:]).argmax(dim=1) == y[1200:]).float().mean().item()

    return {
        "teacher": accuracy(teacher),
        "student distilled": accuracy(student),
        "temperature": distillation.temperature(None, None).item(),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:20}{value:8.3f}")
