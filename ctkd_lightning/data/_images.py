"""Labelled images of one size, in memory or not."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor


class Images(Protocol):
    """Labelled images of one size.

    Attributes:
        targets: (N,), int64.
    """

    targets: Tensor

    def __len__(self) -> int: ...

    def pixels_of(self, index: int, view: int) -> Tensor:
        """One image, (3, H, W), uint8."""
        ...

    def in_memory(self, image_size: int, cache_dir: Path | None, num_workers: int) -> ImageArray:
        """All of them as an array.

        Args:
            image_size: height and width, pixels.
            cache_dir: where to keep what takes long to make; ``None`` keeps nothing.
            num_workers: processes to make it with, at most.
        """
        ...

    def digest(self) -> str:
        """What tells these images from others: the same on every machine, and other where the images are others."""
        ...


class ImageArray:
    """Images in memory.

    Args:
        pixels: (N, 3, H, W), uint8.
        targets: (N,), int64.
        digest: of what the pixels were made from; by default a hash over pixels and targets.
    """

    def __init__(self, pixels: Tensor, targets: Tensor, digest: str | None = None) -> None:
        self.pixels = pixels
        self.targets = targets
        self._digest = digest

    def __len__(self) -> int:
        return len(self.targets)

    def pixels_of(self, index: int, view: int) -> Tensor:
        """One image, (3, H, W), uint8; its augmentation comes later, for the whole batch."""
        return self.pixels[index]

    def in_memory(self, image_size: int, cache_dir: Path | None, num_workers: int) -> ImageArray:
        """The images themselves."""
        return self

    def to(self, device: torch.device) -> ImageArray:
        """Move the images to a device, once: whoever shares this object finds them there."""
        self.pixels, self.targets = self.pixels.to(device), self.targets.to(device)
        return self

    def digest(self) -> str:
        """What tells these images from others."""
        if self._digest is None:
            digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
            for values in (self.pixels, self.targets):
                digest.update(values.cpu().contiguous().numpy().data)
            self._digest = digest.hexdigest()
        return self._digest
