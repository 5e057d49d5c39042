"""Training augmentation as a function of (sample, view number).

A view number says which of an augmentation's variants an image takes. Whoever knows a sample's index and view can make
the same image again: that is what makes a resumed run exact and a teacher's outputs worth keeping.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, RandomHorizontalFlip, RandomResizedCrop, Resize

from ctkd_lightning.data._image_files import Transform
from ctkd_lightning.errors import UserError, check_number, suggest


class Augmentation(ABC):
    """How training images vary: on their files, as these are decoded, or on batches of images of one size.

    Attributes:
        needs_files: it works on images before they have their size, which those in memory have already.
    """

    needs_files: ClassVar[bool] = False

    @property
    @abstractmethod
    def num_views(self) -> int:
        """The number of different views."""

    def on_file(self, resize: Transform) -> Transform:
        """What a training image's file becomes as it is decoded: ``resize``, if nothing varies before the batch."""
        return resize

    def on_batch(self, images: Tensor, view: Tensor) -> Tensor:
        """What a batch becomes: ``images`` themselves, if nothing varies after their decoding.

        Args:
            images: (B, C, H, W), any type.
            view: (B,), int64 on the images' device, from -1 to ``num_views - 1``.

        Returns:
            The views, in the shape and type of ``images``.
        """
        return images


@dataclass(frozen=True)
class NoAugmentation(Augmentation):
    """The images as they are: one view.

    Example:
        >>> NoAugmentation().num_views
        1
    """

    @property
    def num_views(self) -> int:
        """The number of different views, 1."""
        return 1


@dataclass(frozen=True)
class CropFlip(Augmentation):
    """Zero padding, a crop of the original size and a horizontal flip, on a whole batch at once.

    The views are numbered ``(top · (2·padding + 1) + left) · 2 + flipped``, with the crop's corner (top, left) in the
    padded image; without flips the last factor is left out. A view drawn uniformly is what torchvision's
    ``RandomCrop(size, padding)`` and ``RandomHorizontalFlip()`` draw. Apply it before normalisation, so that the
    padding is black. View -1 is the image as it is.

    Args:
        padding: pixels added on each side.
        flip: whether the views include the mirrored images.

    Example:
        >>> CropFlip(padding=4).num_views
        162
        >>> image = torch.tensor([[[[1, 2], [3, 4]]]])
        >>> CropFlip(padding=1).on_batch(image, torch.tensor([6]))  # corner (1, 0): a padded column enters
        tensor([[[[0, 1],
                  [0, 3]]]])
    """

    padding: int = 4
    flip: bool = True

    @property
    def num_views(self) -> int:
        """The number of different views: (2·padding + 1)², twice that with flips."""
        return (2 * self.padding + 1) ** 2 * (2 if self.flip else 1)

    def on_batch(self, images: Tensor, view: Tensor) -> Tensor:
        """Crop and flip: see :meth:`Augmentation.on_batch`."""
        height, width = images.shape[-2:]
        top, left, flipped = self._decode(view)
        column = torch.arange(width, device=images.device)
        rows = top[:, None] + torch.arange(height, device=images.device)
        columns = left[:, None] + torch.where(flipped[:, None], width - 1 - column, column)
        pixels = rows[:, :, None] * (width + 2 * self.padding) + columns[:, None, :]
        padded = F.pad(images, (self.padding,) * 4).flatten(2)
        # one gather over flat pixels: eight times as fast on a CPU as indexing rows and columns
        return padded.gather(2, pixels.flatten(1)[:, None].expand(-1, images.shape[1], -1)).view(images.shape)

    def _decode(self, view: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The crop's corner and whether it is flipped, each (B,)."""
        offsets = 2 * self.padding + 1
        flips = 2 if self.flip else 1
        centre = (self.padding * offsets + self.padding) * flips
        view = torch.where(view < 0, centre, view)
        corner = view // flips
        return corner // offsets, corner % offsets, (view % flips).bool()


class ResizeCrop:
    """Bring an image of any size to a square: resize the short side, crop the centre.

    Args:
        size: height and width of the result, pixels.
        resize: the short side before the crop; ``size`` by default.
    """

    def __init__(self, size: int, resize: int | None = None) -> None:
        self.size = size
        self.resize = resize or size
        self._resize, self._crop = Resize(self.resize), CenterCrop(size)

    def __call__(self, image: Image.Image, view: int) -> Image.Image:
        """The centre of ``image``; there is one view."""
        if image.size == (self.size, self.size) and self.resize == self.size:
            return image
        return self._crop(self._resize(image))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size}, resize={self.resize})"


class RandomResizedCropFlip(ResizeCrop, Augmentation):
    """ImageNet's augmentation: a crop of random area and aspect ratio, resized, then a random flip.

    It works on one decoded image, before the image has its size. The number it is given, made out of sample and view
    by :class:`~ctkd_lightning.data._image_files.ImageFiles`, seeds torchvision's ``RandomResizedCrop(size)`` and
    ``RandomHorizontalFlip()``. The global random state is left as it was. -1 is the resized centre crop.

    Args:
        size: height and width of the result, pixels.
        resize: the short side of view -1 before its centre crop; ``size`` by default.
        num_views: how many seeds to draw from.
    """

    needs_files = True

    def __init__(self, size: int, resize: int | None = None, num_views: int = 2**31) -> None:
        super().__init__(size, resize)
        self._num_views = num_views
        self._random_crop, self._random_flip = RandomResizedCrop(size), RandomHorizontalFlip()

    @property
    def num_views(self) -> int:
        """How many seeds there are to draw from."""
        return self._num_views

    def on_file(self, resize: Transform) -> Transform:
        """This crop, in the place of ``resize``."""
        return self

    def __call__(self, image: Image.Image, view: int) -> Image.Image:
        """The view of ``image`` with this number."""
        if view < 0:
            return super().__call__(image, view)
        with torch.random.fork_rng(devices=[]):
            # not torch.manual_seed, which seeds the accelerators' generators too
            torch.default_generator.manual_seed(view)
            return self._random_flip(self._random_crop(image))


NAMES = ("none", "crop", "crop_flip", "random_resized_crop")


def create_augmentation(
    name: str, *, image_size: int, padding: int = 4, resize: int | None = None, num_views: int | None = None
) -> Augmentation:
    """Build an augmentation by its name.

    Args:
        name: ``"none"``, ``"crop"`` (padding and crop), ``"crop_flip"`` or ``"random_resized_crop"``.
        image_size: height and width of the images, pixels.
        padding: pixels on each side, for the crops.
        resize: the short side of evaluated images before their centre crop, for ``"random_resized_crop"``.
        num_views: how many seeds to draw from, for ``"random_resized_crop"``; the others' views are counted.

    Raises:
        UserError: no such name, a negative padding, or a number of views that cannot be.

    Example:
        >>> create_augmentation("crop", image_size=32, padding=2)
        CropFlip(padding=2, flip=False)
    """
    check_number("padding", padding, least=0, whole=True)
    if name not in NAMES:
        raise UserError(f"unknown augmentation {name!r}: {suggest(str(name), NAMES)}")
    if name == "random_resized_crop":
        if num_views is not None:
            check_number("num_views", num_views, least=1, whole=True)
        return RandomResizedCropFlip(image_size, resize, int(num_views or 2**31))
    if num_views is not None:
        raise UserError(f"num_views={num_views} is for random_resized_crop, found augmentation={name}: leave it out")
    return NoAugmentation() if name == "none" else CropFlip(int(padding), flip=name == "crop_flip")
