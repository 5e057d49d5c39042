"""The fast path: all images in the training device's memory."""

from __future__ import annotations

from collections.abc import Iterator

from ctkd_lightning.data._images import ImageArray
from ctkd_lightning.data._loading.batch import Batch, TeacherBatch
from ctkd_lightning.data._loading.loader import ImageLoader, LookUp
from ctkd_lightning.data._loading.preprocess import Preprocess
from ctkd_lightning.data._loading.sampler import EpochSampler


class MemoryLoader(ImageLoader):
    """Gathers, augments and normalises whole batches on the device.

    No worker processes, and on an accelerator no wait of the host for the device within an epoch: its order goes
    there in one piece.

    Args:
        images: moved to the device, for all loaders that share them.
        sampler: the order.
        preprocess: augmentation and normalisation, on the device.
        look_up: as in :class:`~ctkd_lightning.data._loading.loader.ImageLoader`.
    """

    def __init__(
        self,
        images: ImageArray,
        sampler: EpochSampler,
        preprocess: Preprocess,
        look_up: LookUp | None = None,
    ) -> None:
        super().__init__(sampler, look_up)
        self.images = images
        self.preprocess = preprocess

    def _batches(self) -> Iterator[Batch | TeacherBatch]:
        device = self.preprocess.device
        images = self.images.to(device)
        order = self.sampler.order()
        indices, views = (x.to(device) for x in order)
        for part in self.sampler.slices():
            index, view = indices[part], views[part]
            image = self.preprocess(images.pixels.index_select(0, index), view)
            batch = Batch(image, images.targets.index_select(0, index), index, view)
            yield self._with_teacher(batch, *(x[part] for x in order))
