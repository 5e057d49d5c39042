"""What the two loaders share: length, order and a position that can be saved and restored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ctkd_lightning.data.batch import Batch
from ctkd_lightning.data.sampler import EpochSampler


class Loader:
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

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that epoch and position are read at the first batch: Lightning makes the iterator before
        # it sets the epoch.
        for consumed, batch in enumerate(self._batches(), start=self.sampler.start + 1):
            self.sampler.consumed(consumed)
            yield batch

    def _batches(self) -> Iterator[Batch]:
        """The rest of the epoch."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position."""
        self.sampler.load_state_dict(state)
