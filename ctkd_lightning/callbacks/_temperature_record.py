"""What a temperature gave over an epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctkd_lightning.temperature import Temperature

_COMPACT_EVERY = 256  # steps: bounds the memory, and keeps the cost of a step at one list append


class TemperatureRecord:
    """Listen to a temperature's outputs, without waiting for the device.

    Args:
        module: the temperature to listen to, in training mode only.
    """

    def __init__(self, module: Temperature) -> None:
        self.module = module
        self._taus: list[Tensor] = []
        self._moments: Tensor | None = None
        self._hook = module.register_forward_hook(self._listen)

    def close(self) -> None:
        """Stop listening."""
        self._hook.remove()

    def _listen(self, module: Temperature, args: Any, tau: Tensor) -> None:
        if not module.training:
            return
        if tau.ndim == 0:  # one for all samples: the latest says it all
            self._taus = [tau.detach()]
            return
        self._taus.append(tau.detach())
        if len(self._taus) >= _COMPACT_EVERY:
            self._compact()

    def _compact(self) -> None:
        """Fold the outputs into (count, sum, sum of squares, −min, max), in float64."""
        taus = torch.cat([tau.flatten() for tau in self._taus]).double()
        self._taus = []
        moments = torch.stack(
            [torch.full_like(taus[0], taus.numel()), taus.sum(), taus.square().sum(), -taus.min(), taus.max()]
        )
        self._moments = moments if self._moments is None else _merge(torch.stack([self._moments, moments]))

    def collect(self, strategy: Any) -> dict[str, Tensor] | None:
        """Statistics since the last call, over all processes, by suffix of their name; None if there was no output.

        ``""`` is τ: the latest of a scalar, the mean of a per-sample one; the latter has ``"_std"``, ``"_min"`` and
        ``"_max"`` too.
        """
        if len(self._taus) == 1 and self._taus[0].ndim == 0:
            return {"": self._taus.pop()}
        if self._taus:
            self._compact()
        if self._moments is None:
            return None
        gathered = strategy.all_gather(self._moments).reshape(-1, 5)
        self._moments = None
        count, total, squares, negative_minimum, maximum = _merge(gathered).unbind()
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        return {k: v.float() for k, v in {"": mean, "_std": std, "_min": -negative_minimum, "_max": maximum}.items()}


def _merge(moments: Tensor) -> Tensor:
    return torch.cat([moments[:, :3].sum(dim=0), moments[:, 3:].amax(dim=0)])
