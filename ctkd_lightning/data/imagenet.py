"""ImageNet (ILSVRC 2012)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctkd_lightning.data._base import Split
from ctkd_lightning.data.image_folder import ImageFolder


class ImageNet(ImageFolder):
    """``root/train/<wnid>/…`` and ``root/val/<wnid>/…``; the 50,000 labelled ``val`` images are the test set.

    The classes are the sorted folder names, as torchvision's weights count them. One per cent of the training images
    validates.

    Args:
        root: the folder of ``train`` and ``val``.
        image_size: height and width, pixels.
        resize: the short side of evaluated images before their centre crop.
        augmentation: of training images.
        val_size: the part of the training images that validates.
        batch_size: training images a step and process.
        num_workers: processes that decode.
        **common: the further arguments of :class:`ImageDataModule`.
    """

    name = "imagenet"
    default_padding = 28

    def __init__(
        self,
        root: str | Path = "data/imagenet",
        *,
        image_size: int = 224,
        resize: int = 256,
        augmentation: str = "random_resized_crop",
        val_size: float = 0.01,
        batch_size: int = 256,
        num_workers: int = 8,
        **common: Any,
    ) -> None:
        super().__init__(
            root,
            image_size=image_size,
            resize=resize,
            augmentation=augmentation,
            val_size=val_size,
            batch_size=batch_size,
            num_workers=num_workers,
            **common,
        )

    @property
    def has_validation(self) -> bool:
        """No: ``val`` tests."""
        return False

    def _folder(self, split: Split) -> Path:
        # root/test, where there is one, holds images without labels
        return self._existing_folder("val" if split == "test" else split)
