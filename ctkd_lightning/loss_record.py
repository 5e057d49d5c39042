"""Means of named losses over many steps."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class LossRecord:
    """Sum losses on their device, without waiting for it: to log at each step costs more than small steps do."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count one step's losses, scalars."""
        for name, value in losses.items():
            value = value.detach()
            # a new tensor the first time: the loss itself is the caller's
            self._sums[name] = self._sums[name].add_(value) if name in self._sums else value.clone()
        self.steps += 1

    def means(self) -> dict[str, Tensor]:
        """The means over the steps so far, on the device."""
        return {name: total / self.steps for name, total in self._sums.items()}

    def mean(self, name: str) -> Tensor | None:
        """One of them; ``None`` before the first step."""
        return self._sums[name] / self.steps if name in self._sums else None

    def reset(self) -> None:
        """Begin anew."""
        self._sums, self.steps = {}, 0
