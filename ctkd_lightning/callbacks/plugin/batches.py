"""The batch of a step, be it handed over or fetched by the step itself."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from ctkd_lightning.features._arguments import map_tensors


class GivenBatch:
    """A batch as it came, whatever the step takes out of it; what the step adds under a new name is there too.

    Args:
        batch: which the step may change.
    """

    def __init__(self, batch: Any) -> None:
        self._live = batch
        self._given = map_tensors(batch, lambda tensor, path: tensor)

    @property
    def batch(self) -> Any:
        """A copy of the containers, with the batch's own tensors."""
        if isinstance(self._live, MutableMapping) and self._given is not self._live:
            for name, value in self._live.items():
                self._given.setdefault(name, value)
        return self._given


class FetchedBatches(Iterator[Any]):
    """The iterator that ``training_step(self, dataloader_iter)`` gets, which remembers the last batch.

    Args:
        iterator: Lightning's, over batches with their number and that of their loader.
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self._last = GivenBatch(None)

    @property
    def batch(self) -> Any:
        """The last one as it came, None before the first."""
        return self._last.batch

    def __next__(self) -> Any:
        fetched = next(self._iterator)
        self._last = GivenBatch(fetched[0])
        return fetched

    def __getattr__(self, name: str) -> Any:
        if name in ("_iterator", "_last"):  # of a copy that has nothing yet
            raise AttributeError(name)
        return getattr(self._iterator, name)


def remember_batches(value: Any) -> Any:
    """Lightning's iterator over batches, made to remember the last; any other argument of a step as it is."""
    return FetchedBatches(value) if isinstance(value, Iterator) and hasattr(value, "data_fetcher") else value
