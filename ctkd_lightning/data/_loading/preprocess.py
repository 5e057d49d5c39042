"""From stored images to what a network sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Preprocess:
    """Move a batch to the device, augment it there, scale it to [0, 1] and normalise it.

    All images of a batch at once, on the device: a worker process hands over bytes, a quarter of the floats' volume.

    Args:
        augment: (images, view) -> images, on uint8.
        mean: one a channel, of images scaled to [0, 1].
        std: one a channel.
        device: where the result shall be.
        channels_last: give images in the channels-last memory format.
    """

    def __init__(
        self,
        augment: Callable[[Tensor, Tensor], Tensor],
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        channels_last: bool = False,
    ) -> None:
        self.augment = augment
        self.device = device
        self.mean, self.std = (torch.tensor(list(x), device=device).view(-1, 1, 1) for x in (mean, std))
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images: Tensor, view: Tensor) -> Tensor:
        """Prepare a batch.

        Args:
            images: (B, C, H, W), uint8.
            view: (B,), int64 on the device.

        Returns:
            (B, C, H, W), float32, normalised, on the device.
        """
        images = self.augment(images.to(self.device, non_blocking=True), view)
        scaled = images.to(torch.float32, memory_format=self.memory_format).div_(255)
        return scaled.sub_(self.mean).div_(self.std)
