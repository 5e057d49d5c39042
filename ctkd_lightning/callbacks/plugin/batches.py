"""The batch of a step that fetches it itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class FetchedBatches(Iterator[Any]):
    """The iterator that ``training_step(self, dataloader_iter)`` gets, which remembers the last batch.

    Args:
        iterator: Lightning's, over batches with their number and that of their loader.

    Attributes:
        batch: the last one, None before the first.
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self.batch: Any = None

    def __next__(self) -> Any:
        fetched = next(self._iterator)
        self.batch = fetched[0]
        return fetched

    def __getattr__(self, name: str) -> Any:
        if name == "_iterator":  # of a copy that has nothing yet
            raise AttributeError(name)
        return getattr(self._iterator, name)


def remember_batches(value: Any) -> Any:
    """Lightning's iterator over batches, made to remember the last; any other argument of a step as it is."""
    return FetchedBatches(value) if isinstance(value, Iterator) and hasattr(value, "data_fetcher") else value
