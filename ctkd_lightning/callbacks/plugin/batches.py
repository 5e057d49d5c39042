"""The batch of a step, be it handed over or fetched by the step itself."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from ctkd_lightning.features._arguments import map_tensors


class GivenBatch:
    """A batch as it came, whatever the step takes out of it; what the step adds under a new name is there too.

    Args:
        batch: which the step may change.
        keep_values: whether to copy its tensors too.
    """

    def __init__(self, batch: Any, keep_values: bool = False) -> None:
        self._live = batch
        self._given = map_tensors(batch, lambda tensor, path: tensor)
        self._copied = map_tensors(batch, lambda tensor, path: tensor.detach().clone()) if keep_values else self._given

    @property
    def batch(self) -> Any:
        """A copy of the containers, with the batch's own tensors, in which the step may have written."""
        return self._completed(self._given)

    @property
    def untouched(self) -> Any:
        """The same with the values that the tensors had, if these were kept."""
        return self._completed(self._copied)

    def _completed(self, given: Any) -> Any:
        if isinstance(self._live, MutableMapping) and given is not self._live:
            for name, value in self._live.items():
                given.setdefault(name, value)
        return given


class FetchedBatches(Iterator[Any]):
    """The iterator that ``training_step(self, dataloader_iter)`` gets, which remembers the last batch.

    Args:
        iterator: Lightning's, over batches with their number and that of their loader.
        keep_values: whether to copy the batches' tensors too.
    """

    def __init__(self, iterator: Iterator[Any], keep_values: bool = False) -> None:
        self._iterator, self._keep_values = iterator, keep_values
        self._last = GivenBatch(None)

    @property
    def batch(self) -> Any:
        """The last one as it came, None before the first."""
        return self._last.batch

    @property
    def untouched(self) -> Any:
        """The same with the values that the tensors had, if these were kept."""
        return self._last.untouched

    def __next__(self) -> Any:
        fetched = next(self._iterator)
        self._last = GivenBatch(fetched[0], self._keep_values)
        return fetched

    def __getattr__(self, name: str) -> Any:
        if name in ("_iterator", "_keep_values", "_last"):  # of a copy that has nothing yet
            raise AttributeError(name)
        return getattr(self._iterator, name)


def remember_batches(value: Any, keep_values: bool = False) -> Any:
    """Lightning's iterator over batches, made to remember the last; any other argument of a step as it is."""
    fetches = isinstance(value, Iterator) and hasattr(value, "data_fetcher")
    return FetchedBatches(value, keep_values) if fetches else value
