"""What the data modules of images with a class a pixel share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ctkd_lightning.data._labelled import LabelledDataModule, Split
from ctkd_lightning.data._loading.loader import Loader
from ctkd_lightning.data._loading.sampler import EpochSampler


class MapBatch(NamedTuple):
    """One batch of images with maps.

    Attributes:
        image: (B, 3, H, W), float32 from 0 to 1.
        target: (B, H, W), int64, the class of each pixel.
        index: (B,), int64, the images' positions in the full split.
    """

    image: Tensor
    target: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a batch


class SegmentationDataModule(LabelledDataModule):
    """Images with the class of each pixel, all in memory, for training, validation and test.

    Works with any Trainer and module, or alone: ``next(iter(data.train_dataloader()))``. The arguments are those of
    ``LabelledDataModule``: batch_size, eval_batch_size, batch_size_is_total, val_size, limit_train, limit_eval, seed,
    drop_last.
    """

    default_batch_size = 4

    # What a data set defines

    @abstractmethod
    def maps(self, split: Split) -> tuple[Tensor, Tensor]:
        """All images of a split, (N, 1 or 3, H, W), and the classes of their pixels, (N, H, W); both uint8."""

    @property
    @abstractmethod
    def content(self) -> str:
        """What tells this data set's training images from others of the same name."""

    @property
    @abstractmethod
    def test_content(self) -> str:
        """Likewise of the test images."""

    # What it says of them

    @property
    def example_image(self) -> Tensor:
        """(2, 3, H, W), float32: the first training images."""
        return _as_floats(self.maps("train")[0][:2])

    @property
    def val_maps(self) -> Tensor:
        """(N, H, W), uint8: the classes of the validation images' pixels, of all processes' images in each of them."""
        return self.maps(self._val_split)[1][self.val_indices]

    def fingerprint(self) -> str:
        """A hash over all that decides the training images, but not their order."""
        return self._hash(self.content, *self._selection)

    def test_fingerprint(self) -> str:
        """What tells the test images from others."""
        return self._hash(self.test_content, self.limit_eval)

    # What the splits and loaders are made of

    def _targets(self, split: Split) -> Tensor:
        """Of one kind all: an image has a class for each of its pixels."""
        return torch.zeros(len(self.maps(split)[0]), dtype=torch.int64)

    def _loader(self, split: Split, sampler: EpochSampler, training: bool) -> Loader[MapBatch]:
        return _MapLoader(*self.maps(split), sampler, self._device())


class _MapLoader(Loader[MapBatch]):
    """Gathers batches on the device."""

    def __init__(self, images: Tensor, maps: Tensor, sampler: EpochSampler, device: torch.device) -> None:
        super().__init__(sampler)
        self.images, self.maps, self.device = images, maps, device

    def _batches(self) -> Iterator[MapBatch]:
        images, maps = self.images.to(self.device), self.maps.to(self.device)
        order = self.sampler.order()[0].to(self.device)
        for part in self.sampler.slices():
            index = order[part]
            yield MapBatch(_as_floats(images[index]), maps[index].long(), index)


def _as_floats(images: Tensor) -> Tensor:
    return (images.float() / 255).expand(-1, 3, -1, -1).contiguous()
