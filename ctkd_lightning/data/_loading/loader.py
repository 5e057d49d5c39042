"""What the loaders share: length, order and a position that can be saved and restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ctkd_lightning.data._loading.batch import Batch, Lookup, TeacherBatch
from ctkd_lightning.data._loading.sampler import EpochSampler

AnyBatch = TypeVar("AnyBatch")
LookUp = Callable[[Tensor, Tensor, torch.device], Lookup]
"""From a batch's index and view, on the CPU, and its device to what a cache knows of it."""


class Loader(Generic[AnyBatch]):
    """Iterates over the batches that a sampler names.

    Lightning saves and restores its position through ``state_dict`` and ``load_state_dict``, sets the epoch through
    ``sampler``, and leaves the sampler alone in a distributed run, since this is no torch ``DataLoader``. In a loop
    without Lightning each pass is the next epoch.

    Args:
        sampler: the order.
    """

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    @property
    def batch_sampler(self) -> EpochSampler:
        """The sampler, under the name by which Lightning also looks for it."""
        return self.sampler

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[AnyBatch]:
        # A generator, so that epoch and position are read at the first batch: Lightning makes the iterator before
        # it sets the epoch.
        for consumed, batch in enumerate(self._batches(), start=self.sampler.start + 1):
            self.sampler.consumed(consumed)
            yield batch

    def _batches(self) -> Iterator[AnyBatch]:
        """The rest of the epoch."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position."""
        self.sampler.load_state_dict(state)


class ImageLoader(Loader[Batch | TeacherBatch]):
    """Batches of images, with what a cache knows of the teacher's outputs for them.

    Args:
        sampler: the order.
        look_up: called for each batch, that is then a :class:`TeacherBatch`. It is called here, where the samples'
            numbers are still with the host, so that no step waits for the device.
    """

    def __init__(self, sampler: EpochSampler, look_up: LookUp | None = None) -> None:
        super().__init__(sampler)
        self.look_up = look_up

    def _with_teacher(self, batch: Batch, index: Tensor, view: Tensor) -> Batch | TeacherBatch:
        """Add what is known of the teacher's outputs; ``index`` and ``view`` are the batch's, on the CPU."""
        return batch if self.look_up is None else TeacherBatch(*batch, self.look_up(index, view, batch.image.device))
