"""Batches of images with boxes."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Dataset

from ctkd_lightning.data._annotated import AnnotatedBatch, AnnotatedImages, flipped
from ctkd_lightning.data._loading.loader import Loader
from ctkd_lightning.data._loading.sampler import EpochSampler
from ctkd_lightning.data._loading.workers import StopsWorkers, batch_loader, one_line_errors

FLIPPED = 1
"""The view that is the mirror image."""


class DetectionLoader(StopsWorkers, Loader[AnnotatedBatch]):
    """A torch ``DataLoader`` whose order, flips and position are exact across restarts.

    The batches are on the CPU: Lightning moves them.

    Args:
        images: what to load.
        sampler: the order; of its views 1 is the mirror image, all others the image itself.
        num_workers: processes that decode; 0 decodes in this one.
    """

    def __init__(self, images: AnnotatedImages, sampler: EpochSampler, num_workers: int = 0) -> None:
        super().__init__(sampler)
        self._loader = batch_loader(_Batches(images), sampler, num_workers)

    def _batches(self) -> Iterator[AnnotatedBatch]:
        with one_line_errors():
            yield from self._loader


class _Batches(Dataset[AnnotatedBatch]):
    """Images as batches, each by its list of (index, view) pairs."""

    def __init__(self, images: AnnotatedImages) -> None:
        self.images = images

    def __getitem__(self, pairs: list[tuple[int, int]]) -> AnnotatedBatch:
        drawn = [self.images[index] for index, _ in pairs]
        drawn = [flipped(*each) if view == FLIPPED else each for each, (_, view) in zip(drawn, pairs, strict=True)]
        return [image for image, _ in drawn], [objects for _, objects in drawn]
