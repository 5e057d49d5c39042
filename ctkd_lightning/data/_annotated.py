"""Images with the boxes of the objects in them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

Objects = dict[str, Tensor]
"""What is known of an image, as torchvision's detectors take it.

``boxes`` (n, 4), float32, (left, top, right, bottom) in pixels; ``labels`` (n,), int64, from 1: 0 is the background's.
Perhaps ``iscrowd`` (n,), int64, 1 for a box around many objects, and ``mask`` (H, W), int64, the label of each pixel, 0
for the background.
"""

AnnotatedImage = tuple[Tensor, Objects]
"""An image (3, H, W), float32 from 0 to 1, and its objects."""

AnnotatedBatch = tuple[list[Tensor], list[Objects]]
"""A batch: images of any sizes, and the objects of each."""


class AnnotatedImages(Protocol):
    """A split of a data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> AnnotatedImage: ...


def flipped(image: Tensor, objects: Objects) -> AnnotatedImage:
    """The mirror image, left and right exchanged.

    Example:
        >>> _, objects = flipped(torch.zeros(3, 4, 10), {"boxes": torch.tensor([[1.0, 0.0, 3.0, 4.0]])})
        >>> objects["boxes"]
        tensor([[7., 0., 9., 4.]])
    """
    width = image.shape[-1]
    left, top, right, bottom = objects["boxes"].unbind(dim=1)
    changed = {"boxes": torch.stack([width - right, top, width - left, bottom], dim=1)}
    if "mask" in objects:
        changed["mask"] = objects["mask"].flip(-1)
    return image.flip(-1), objects | changed
