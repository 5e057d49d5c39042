"""The fast path: all images in the training device's memory."""

from __future__ import annotations

from collections.abc import Iterator

from ctkd_lightning.data.batch import Batch
from ctkd_lightning.data.images import ImageArray
from ctkd_lightning.data.loader import Loader
from ctkd_lightning.data.preprocess import Preprocess
from ctkd_lightning.data.sampler import EpochSampler


class MemoryLoader(Loader):
    """Gathers, augments and normalises whole batches on the device.

    No worker processes, and on an accelerator no wait of the host for the device within an epoch: its order goes
    there in one piece.

    Args:
        images: moved to the device, for all loaders that share them.
        sampler: the order.
        preprocess: augmentation and normalisation, on the device.
    """

    def __init__(self, images: ImageArray, sampler: EpochSampler, preprocess: Preprocess) -> None:
        super().__init__(sampler)
        self.images = images
        self.preprocess = preprocess

    def _batches(self) -> Iterator[Batch]:
        device = self.preprocess.device
        images = self.images.to(device)
        index, view = (x.to(device) for x in self.sampler.order())
        for batch in self.sampler.slices():
            image = self.preprocess(images.pixels.index_select(0, index[batch]), view[batch])
            yield Batch(image, images.targets.index_select(0, index[batch]), index[batch], view[batch])
