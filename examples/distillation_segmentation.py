"""A class a pixel: the digits 0 to 4 on a textured canvas, with pixels that no annotator decided.

Pixels at a digit's faint rim have the target 255 and count nowhere, as the borders in Pascal VOC. The teacher has
learned from 600 canvases. The student has 150, where whoever labelled them overlooked a quarter of the digits. It
learns twice from the same weights and as long: from these labels alone, and with the teacher's answers for the same 150
canvases. The score is the mean intersection over union on canvases made of other digits.

python examples/distillation_segmentation.py
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
from torchmetrics.functional import jaccard_index

from ctkd_lightning import CosineCurriculum, DistillationModule, GlobalTemperature
from ctkd_lightning.modules import ClassifierModule, SupervisedModule

BACKGROUND, UNDECIDED = 5, 255
EPOCHS = 20


class Network(nn.Module):
    """From canvases (B, 1, 16, 16) to logits (B, 6, 16, 16)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.coarse = nn.Sequential(
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
        )
        self.head = nn.Conv2d(3 * width, 6, 1)

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        fine = self.fine(images)
        return self.head(torch.cat((fine, self.coarse(fine)), dim=1))


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of all networks."""
    return torch.optim.Adam(parameters, lr=0.01)


def alone(network: nn.Module) -> ClassifierModule:
    """A network that learns from the labels: cross-entropy of each pixel that was decided."""
    return ClassifierModule(network, class_dim=1, ignore_index=UNDECIDED, optimizer=adam)


def distilled(teacher: nn.Module, student: nn.Module) -> DistillationModule:
    """A student that learns from both, at a learned temperature; undecided pixels are in neither loss."""
    return DistillationModule(
        teacher,
        student,
        temperature=GlobalTemperature(tau_init=1.0, tau_range=3.0),
        curriculum=CosineCurriculum(epochs=EPOCHS // 2),
        class_dim=1,
        ignore_index=UNDECIDED,
        optimizer=adam,
    )


def canvases(count: int, first: int, last: int, overlooked: float = 0.0) -> tuple[Tensor, Tensor]:
    """Canvases (N, 1, 16, 16) with two of these digits, and classes (N, 16, 16), a share of the digits left out."""
    images, classes = load_digits(n_class=5, return_X_y=True)
    digits, classes = torch.tensor(images[first:last] / 16).float().view(-1, 8, 8), torch.tensor(classes[first:last])
    canvas, target = 0.4 * torch.rand(count, 16, 16), torch.full((count, 16, 16), BACKGROUND)
    for i in range(count):
        for left in (0, 8):
            digit, top = int(torch.randint(len(digits), ())), int(torch.randint(9, ()))
            place = (i, slice(top, top + 8), slice(left, left + 8))
            canvas[place] += digits[digit]
            if torch.rand(()) >= overlooked:
                target[place][digits[digit] > 0.2] = UNDECIDED
                target[place][digits[digit] > 0.4] = classes[digit]
    return canvas.unsqueeze(1), target


def fit(module: SupervisedModule, train: Dataset, test: TensorDataset, epochs: int = EPOCHS) -> float:
    """Train; the mean intersection over union on test data in percent."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(train, batch_size=15, shuffle=True))
    images, target = test.tensors
    with torch.no_grad():
        found = module.eval()(images).argmax(dim=1)
    return 100 * jaccard_index(found, target, "multiclass", num_classes=6, ignore_index=UNDECIDED).item()


def compare(seed: int) -> dict[str, float]:
    """One teacher, and a student without and with it."""
    seed_everything(seed, verbose=False)
    test = TensorDataset(*canvases(200, 600, 901))
    few = TensorDataset(*canvases(150, 0, 600, overlooked=0.25))

    teacher, student = Network(16), Network(8)
    results = {"teacher": fit(alone(teacher), TensorDataset(*canvases(600, 0, 600)), test, epochs=8)}
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
        print(f"{name:20}{mean(values):8.2f} ± {pstdev(values):.2f}" + ("" if name == "temperature" else " % IoU"))
    return {name: mean(values) for name, values in results.items()}


if __name__ == "__main__":
    main()
