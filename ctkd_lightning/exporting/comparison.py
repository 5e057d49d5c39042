"""What a file's network gives beside the original's, on real images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ctkd_lightning.data import ImageDataModule
from ctkd_lightning.models._student import Normalize

Scorer = Callable[[Tensor], Tensor]
"""From images (B, C, H, W) to logits (B, classes)."""


class Pixels:
    """Takes a data set's normalisation back, to the very pixels: multiples of 1/255 in [0, 1]."""

    def __init__(self, data: ImageDataModule) -> None:
        self.normalize = Normalize(data.mean, data.std)

    def __call__(self, image: Tensor) -> Tensor:
        """(B, C, H, W), normalised, as pixels."""
        return (image * self.normalize.std + self.normalize.mean).mul(255).round().div(255)


@dataclass(frozen=True)
class Scores:
    """What a network gave for N images.

    Attributes:
        logits: (N, C).
        target: (N,), the images' classes.
    """

    logits: Tensor
    target: Tensor

    @property
    def top1(self) -> float:
        """Accuracy in percent."""
        return 100 * (self.logits.argmax(1) == self.target).double().mean().item()

    def difference(self, other: Scores) -> float:
        """The greatest difference of a logit; NaN where either has one."""
        return (self.logits - other.logits).abs().max().item()


@torch.no_grad()
def scores_of(scorer: Scorer, data: ImageDataModule) -> Scores:
    """A network's scores for the test images; the first of them alone, to show that any batch size will do."""
    logits, targets = [], []
    for image, target in _batches(data):
        logits.append(scorer(image))
        targets.append(target)
    return Scores(torch.cat(logits), torch.cat(targets))


def _batches(data: ImageDataModule) -> Iterator[tuple[Tensor, Tensor]]:
    for number, batch in enumerate(data.test_dataloader()):
        parts = [slice(0, 1), slice(1, None)] if number == 0 and len(batch.image) > 1 else [slice(None)]
        for part in parts:
            yield batch.image[part], batch.target[part]


def latency(scorer: Scorer, image: Tensor) -> float:
    """Median milliseconds for a batch, after a warm-up, with torch's number of threads."""
    from torch.utils.benchmark import Timer  # which looks for compilers and says what it found

    with torch.no_grad():
        timer = Timer("scorer(image)", globals={"scorer": scorer, "image": image}, num_threads=torch.get_num_threads())
        return 1000 * timer.blocked_autorange(min_run_time=0.3).median
