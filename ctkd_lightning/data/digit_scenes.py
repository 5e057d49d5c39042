"""Scenes of scikit-learn's handwritten digits, to be found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.transforms.functional import resize

from ctkd_lightning._reading import check_held
from ctkd_lightning.data._annotated import AnnotatedImage
from ctkd_lightning.data._checks import whole_number
from ctkd_lightning.data._detection import DetectionDataModule
from ctkd_lightning.data._labelled import Split
from ctkd_lightning.data._split import complement, stratified_subset
from ctkd_lightning.data.digits import positions

SIDE = 128
"""Of a scene, pixels."""
DIGITS = (3, 8)
"""How many there are in a scene, least and most."""
SIZES = (14, 32)
"""Of a digit's picture before the empty rows and columns are cut off, pixels."""
INK = 0.25
"""From which share of the darkest level on a pixel belongs to the stroke."""

_VALIDATION = 135  # digits of the training set, which are in no training scene
_ATTEMPTS = 40  # to find a free place for a digit
_OF_SPLIT = {"train": 0, "val": 1, "test": 2}  # scenes of a split have random numbers of their own


class DigitScenes(DetectionDataModule):
    """Grey scenes of 128 × 128 pixels with 3 to 8 handwritten digits, in noise and among bars.

    scikit-learn's digits of 8 × 8 pixels are enlarged to 14 to 32, each in a brightness of its own, and lie apart from
    each other; the boxes are drawn around their strokes. Nothing is downloaded. Training, validation and test scenes
    are made of different digits: the test's are those of :class:`~ctkd_lightning.data.Digits`. Beside ``boxes`` and
    ``labels`` (1 for a zero to 10 for a nine) a scene has ``mask``, (128, 128), int64, with the label of each pixel's
    digit and 0 elsewhere, for segmentation.

    Args:
        train_size: how many training scenes.
        val_size: how many validation scenes.
        test_size: how many test scenes.
        scene_seed: of the scenes; ``seed`` is that of their order alone.
        **common: the arguments of :class:`DetectionDataModule`.

    Raises:
        UserError: a setting that cannot be.

    Example:
        >>> data = DigitScenes(train_size=4, val_size=2, test_size=2, batch_size=2)
        >>> images, objects = next(iter(data.train_dataloader()))
        >>> len(images), images[0].shape, sorted(objects[0])
        (2, torch.Size([3, 128, 128]), ['boxes', 'labels', 'mask'])
    """

    name = "digit_scenes"

    def __init__(
        self,
        *,
        train_size: int = 600,
        val_size: int = 200,
        test_size: int = 200,
        scene_seed: int = 0,
        **common: Any,
    ) -> None:
        self.sizes = {
            "train": whole_number("train_size", train_size, least=1),
            "val": whole_number("val_size", val_size, least=1),
            "test": whole_number("test_size", test_size, least=1),
        }
        self.scene_seed = whole_number("scene_seed", scene_seed, least=0)
        super().__init__(val_size=val_size, **common)

    @property
    def has_validation(self) -> bool:
        """The scenes of digits that are in no training scene."""
        return True

    @property
    def class_names(self) -> list[str]:
        """``"0"`` to ``"9"``."""
        return [str(digit) for digit in range(10)]

    @property
    def content(self) -> str:
        """How many training scenes of which seed."""
        return f"{self.sizes['train']} {self.scene_seed}"

    @property
    def test_content(self) -> str:
        """How many test scenes of which seed."""
        return f"{self.sizes['test']} {self.scene_seed}"

    def load(self, split: Split) -> Scenes:
        """Draw the scenes of a split."""
        count = self.sizes[split]
        check_held(count * SIDE**2 * 9, f"{split}_size={count}")
        digits = load_digits()
        targets = torch.from_numpy(digits.target).long()
        chosen = _digits_of(split, targets)
        pictures = torch.from_numpy(digits.images)[chosen] / 16
        seed = (self.scene_seed, _OF_SPLIT[split])
        return Scenes([draw(np.random.default_rng((*seed, i)), pictures, targets[chosen]) for i in range(count)])


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes:
        pixels: (128, 128), uint8.
        mask: (128, 128), uint8, each pixel's label.
        boxes: (n, 4), float32.
        labels: (n,), int64.
    """

    pixels: Tensor
    mask: Tensor
    boxes: Tensor
    labels: Tensor


class Scenes:
    """Scenes as :data:`~ctkd_lightning.data._annotated.AnnotatedImage`.

    Args:
        scenes: in memory.
    """

    def __init__(self, scenes: list[Scene]) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, position: int) -> AnnotatedImage:
        scene = self.scenes[position]
        image = (scene.pixels.float() / 255).expand(3, -1, -1).contiguous()
        return image, {"boxes": scene.boxes.clone(), "labels": scene.labels.clone(), "mask": scene.mask.long()}


def _digits_of(split: Split, targets: Tensor) -> Tensor:
    """Which digits the scenes of a split are made of."""
    if split == "test":
        return positions("test", targets)
    training = positions("train", targets)
    held_out = stratified_subset(targets[training], _VALIDATION)
    return training[held_out if split == "val" else complement(held_out, len(training))]


def draw(rng: np.random.Generator, pictures: Tensor, targets: Tensor) -> Scene:
    """Draw a scene: a grey ground that grows lighter in some direction, bars, digits, and noise over all.

    Args:
        rng: where all chance comes from.
        pictures: (N, 8, 8), the digits, 0 for paper and 1 for the darkest ink.
        targets: (N,), int64, what they are.
    """
    canvas = _ground(rng)
    for _ in range(rng.integers(2, 6)):
        _draw_bar(rng, canvas)
    mask = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    boxes: list[list[int]] = []
    labels: list[int] = []
    for _ in range(rng.integers(DIGITS[0], DIGITS[1] + 1)):
        chosen = int(rng.integers(len(pictures)))
        ink = _enlarged(pictures[chosen], int(rng.integers(SIZES[0], SIZES[1] + 1)))
        brightness = rng.uniform(0.35, 0.8)
        place = _free_place(rng, ink.shape, boxes)
        if place is None:
            continue
        left, top, right, bottom = place
        part = canvas[top:bottom, left:right]
        part += brightness * ink * (1 - part)
        mask[top:bottom, left:right][ink >= INK] = int(targets[chosen]) + 1
        boxes.append(place)
        labels.append(int(targets[chosen]) + 1)
    canvas += torch.from_numpy(rng.normal(scale=0.08, size=(SIDE, SIDE)))
    return Scene(
        (canvas.clamp(0, 1) * 255).round().to(torch.uint8),
        mask,
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor(labels),
    )


def _ground(rng: np.random.Generator) -> Tensor:
    across = torch.linspace(-1, 1, SIDE, dtype=torch.float64)
    slope = torch.from_numpy(rng.uniform(-0.08, 0.08, size=2))
    return rng.uniform(0.1, 0.25) + slope[0] * across[:, None] + slope[1] * across[None]


def _draw_bar(rng: np.random.Generator, canvas: Tensor) -> None:
    """A bar of 20 to 60 by 2 to 4 pixels, upright or level, as bright as the strokes are."""
    length, width = int(rng.integers(20, 61)), int(rng.integers(2, 5))
    height, width = (length, width) if rng.random() < 0.5 else (width, length)
    top, left = int(rng.integers(SIDE - height + 1)), int(rng.integers(SIDE - width + 1))
    part = canvas[top : top + height, left : left + width]
    part += rng.uniform(0.3, 0.7) * (1 - part)


def _enlarged(picture: Tensor, size: int) -> Tensor:
    """A digit of ``size`` pixels in its larger direction, its empty rows and columns cut off: (h, w)."""
    ink = resize(picture[None], [size, size]).squeeze(0)
    rows, columns = ((ink >= INK).any(dim=dim).nonzero() for dim in (1, 0))
    return ink[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]


def _free_place(rng: np.random.Generator, shape: torch.Size, taken: list[list[int]]) -> list[int] | None:
    """A box of this shape that touches no other; ``None`` where chance found none."""
    height, width = shape
    for _ in range(_ATTEMPTS):
        top, left = int(rng.integers(SIDE - height + 1)), int(rng.integers(SIDE - width + 1))
        box = [left, top, left + width, top + height]
        if all(box[2] < x0 or x1 < box[0] or box[3] < y0 or y1 < box[1] for x0, y0, x1, y1 in taken):
            return box
    return None
