"""CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision
from torchvision.transforms.functional import resize

from ctkd_lightning.data._base import ImageDataModule, Split
from ctkd_lightning.data._images import ImageArray
from ctkd_lightning.errors import UserError


class CIFAR10(ImageDataModule):
    """50,000 training and 10,000 test images of 32 × 32 pixels in 10 classes.

    The files are torchvision's: ``root/cifar-10-batches-py/``.
    """

    name = "cifar10"
    default_mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    default_std: ClassVar[tuple[float, ...]] = (0.2470, 0.2435, 0.2616)
    dataset: ClassVar[type[torchvision.datasets.CIFAR10]] = torchvision.datasets.CIFAR10
    classes: ClassVar[int] = 10

    @property
    def num_classes(self) -> int:
        """Known without the files."""
        return self.classes

    @cached_property
    def class_names(self) -> list[str]:
        """The classes' names, read from the files."""
        return list(self._open(train=False).classes)

    @property
    def content(self) -> str:
        """Nothing beyond the name: the files are checked against their published sums."""
        return ""

    def has_files(self) -> bool:
        """Whether the files are there and have their published sums."""
        try:
            self._open(train=True)
        except UserError:
            return False
        return True

    def fetch(self) -> None:
        """Download the archive, unless it lies in ``root``, and unpack it."""
        self._open(train=True, download=True)

    def load(self, split: Split) -> ImageArray:
        """Read a split; the files are checked against their sums."""
        dataset = self._open(train=split == "train")
        pixels = torch.from_numpy(np.ascontiguousarray(dataset.data.transpose(0, 3, 1, 2)))
        if self.image_size != 32:
            pixels = resize(pixels, [self.image_size, self.image_size])
        return ImageArray(pixels, torch.tensor(dataset.targets))

    def _open(self, train: bool, download: bool = False) -> Any:
        try:
            return self.dataset(self.root, train=train, download=download)
        except (OSError, RuntimeError) as error:  # no network; no files, or broken ones
            failed = f"could not be downloaded ({error})" if download else "is not there, or incomplete"
            raise UserError(
                f"{self.root / self.dataset.base_folder} {failed}: run once with network and data.download=true, or "
                f"fetch {self.dataset.url} elsewhere and unpack it in {self.root}"
            ) from error


class CIFAR100(CIFAR10):
    """50,000 training and 10,000 test images of 32 × 32 pixels in 100 classes.

    The files are torchvision's: ``root/cifar-100-python/``. Mean and deviation are those of the distillation papers.
    """

    name = "cifar100"
    default_mean = (0.5071, 0.4867, 0.4408)
    default_std = (0.2675, 0.2565, 0.2761)
    dataset = torchvision.datasets.CIFAR100
    classes = 100
