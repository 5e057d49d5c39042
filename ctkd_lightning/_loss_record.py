"""Means of named losses over many steps."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class LossRecord:
    """Sum losses on their device, without waiting for it: to log at each step costs more than small steps do.

    Attributes:
        latest: the last step's losses, scalars on the device.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.latest: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._before = (self._sums, self._counts)

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count one step's losses, scalars."""
        self._before = (self._sums, self._counts)
        self.latest = {name: value.detach() for name, value in losses.items()}
        self._sums, self._counts = dict(self._sums), dict(self._counts)
        for name, value in self.latest.items():
            # a new tensor the first time: the loss itself is the caller's
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1  # a step without labels has no task loss

    def forget_latest(self) -> None:
        """Do not count the last step."""
        self._sums, self._counts = self._before
        self.latest = {}

    def means(self) -> dict[str, Tensor]:
        """The means so far, each over the steps that had the loss, on the device."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}

    def mean(self, name: str) -> Tensor | None:
        """One of them; ``None`` before the first step."""
        return self._sums[name] / self._counts[name] if name in self._sums else None
