"""scikit-learn's handwritten digits."""

from __future__ import annotations

from typing import ClassVar

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.transforms.functional import resize

from ctkd_lightning.data._base import ImageDataModule, Split
from ctkd_lightning.data._images import ImageArray
from ctkd_lightning.data._split import complement, stratified_subset

TEST_SIZE = 450


def positions(split: Split, targets: Tensor) -> Tensor:
    """Which digits train or test, of all 1,797: the same for every seed, and for every data set that is made of them.

    Args:
        split: ``"train"`` or ``"test"``.
        targets: (1797,), int64.

    Returns:
        (n,), int64, sorted.
    """
    test = stratified_subset(targets, TEST_SIZE)
    return test if split == "test" else complement(test, len(targets))


class Digits(ImageDataModule):
    """1,797 digits of 8 × 8 pixels, enlarged to ``image_size`` and repeated to three channels.

    They ship with scikit-learn: no files, no network. 450 of them, the same for every seed, are the test set. The
    augmentation shifts but does not mirror: a mirrored digit is another sign.
    """

    name = "digits"
    default_batch_size = 32  # few images: more steps in an epoch
    default_mean: ClassVar[tuple[float, ...]] = (0.306, 0.306, 0.306)
    default_std: ClassVar[tuple[float, ...]] = (0.323, 0.323, 0.323)
    default_augmentation = "crop"

    @property
    def class_names(self) -> list[str]:
        """``"0"`` to ``"9"``."""
        return [str(digit) for digit in range(10)]

    @property
    def content(self) -> str:
        """Nothing beyond the name: the digits are the same in every release of scikit-learn."""
        return ""

    def load(self, split: Split) -> ImageArray:
        """The training or the test digits."""
        digits = load_digits()
        targets = torch.from_numpy(digits.target).long()
        chosen = positions(split, targets)
        pixels = torch.from_numpy(digits.images)[chosen, None] * (255 / 16)
        pixels = resize(pixels, [self.image_size, self.image_size]).round().clamp(0, 255).to(torch.uint8)
        return ImageArray(pixels.expand(-1, 3, -1, -1).contiguous(), targets[chosen])
