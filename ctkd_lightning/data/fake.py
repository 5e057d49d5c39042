"""Synthetic images that can be learned."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from ctkd_lightning._reading import check_held
from ctkd_lightning.data._base import ImageDataModule, Split
from ctkd_lightning.data._checks import whole_number
from ctkd_lightning.data._images import ImageArray
from ctkd_lightning.data._split import SPLIT_SEED
from ctkd_lightning.errors import UserError


class Fake(ImageDataModule):
    """Images made of their class's pattern and noise, for trials and tests; the same for every seed.

    Args:
        num_classes: how many classes.
        train_size: how many training images.
        test_size: how many test images.
        **common: the arguments of :class:`ImageDataModule`.
    """

    name = "fake"
    default_mean: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)
    default_std: ClassVar[tuple[float, ...]] = (0.25, 0.25, 0.25)

    def __init__(self, num_classes: int = 10, train_size: int = 512, test_size: int = 256, **common: Any) -> None:
        super().__init__(**common)
        num_classes = whole_number("num_classes", num_classes, least=1)
        train_size = whole_number("train_size", train_size, least=1)
        test_size = whole_number("test_size", test_size, least=1)
        if num_classes < 2 or min(train_size, test_size) < num_classes:
            raise UserError(
                f"num_classes={num_classes}, train_size={train_size}, test_size={test_size}: "
                "take two classes or more, and an image of each class or more in both sets"
            )
        self._num_classes = num_classes
        self.sizes = {"train": train_size, "test": test_size}

    @property
    def class_names(self) -> list[str]:
        """``"class 0"`` and so on."""
        return [f"class {number}" for number in range(self._num_classes)]

    @property
    def content(self) -> str:
        """The number of classes and of training images."""
        return f"{self._num_classes} {self.sizes['train']}"

    def load(self, split: Split) -> ImageArray:
        """Make the images: a coarse pattern for each class, under noise."""
        pixels_of_one = 3 * self.image_size**2
        check_held(
            (self._num_classes + 3 * self.sizes[split]) * pixels_of_one * 4,
            f"{split}_size={self.sizes[split]} of image_size={self.image_size} and num_classes={self._num_classes}",
        )
        generator = torch.Generator().manual_seed(SPLIT_SEED)
        patterns = torch.rand(self._num_classes, 3, 4, 4, generator=generator)
        patterns = F.interpolate(patterns, size=self.image_size, mode="bilinear", align_corners=False)
        generator.manual_seed(SPLIT_SEED + (1 if split == "train" else 2))
        targets = torch.arange(self.sizes[split]) % self._num_classes
        noise = torch.rand(len(targets), 3, self.image_size, self.image_size, generator=generator)
        pixels = (0.5 * patterns[targets] + 0.5 * noise).mul(255).round()
        return ImageArray(pixels.to(torch.uint8), targets)
