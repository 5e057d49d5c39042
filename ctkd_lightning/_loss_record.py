"""Means of named losses over the samples of many steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
        self._samples: dict[str, int | Tensor] = {}
        self._before = (self._sums, self._samples)

    def add(self, losses: Mapping[str, Tensor], samples: int | Tensor = 1) -> None:
        """Count one step's losses.

        Args:
            losses: scalars.
            samples: of the step, on all processes together: a small last batch counts less than the others. Where they
                are not given, each step counts alike.
        """
        self._before = (self._sums, self._samples)
        self.latest = {name: value.detach() for name, value in losses.items()}
        self._sums, self._samples = dict(self._sums), dict(self._samples)
        for name, value in self.latest.items():
            # a new tensor: the loss itself is the caller's
            self._sums[name] = self._sums.get(name, 0) + value * samples
            self._samples[name] = self._samples.get(name, 0) + samples  # a step without labels has no task loss

    def forget_latest(self) -> None:
        """Do not count the last step."""
        self._sums, self._samples = self._before
        self.latest = {}

    def means(self) -> dict[str, Tensor]:
        """The means so far, each over the samples of the steps that had the loss, on the device."""
        return {name: self._mean(name) for name in self._sums}

    def mean(self, name: str) -> Tensor | None:
        """One of them; ``None`` before the first step."""
        return self._mean(name) if name in self._sums else None

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, for a checkpoint within an epoch; on the CPU."""
        samples = {name: n.cpu() if isinstance(n, Tensor) else n for name, n in self._samples.items()}
        return {"sums": {name: value.cpu() for name, value in self._sums.items()}, "samples": samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with them."""
        self.reset()
        self._sums, self._samples = dict(state["sums"]), dict(state["samples"])

    def _mean(self, name: str) -> Tensor:
        samples = self._samples[name]
        return self._sums[name] / (samples.clamp(min=1) if isinstance(samples, Tensor) else max(samples, 1))
