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

    Attributes:
        parts: whose τ it gives; ``""`` where it gives one.
    """

    def __init__(self, module: Temperature) -> None:
        self.module = module
        self.parts = module.names or ("",)
        self._taus: list[Tensor] = []  # (K,), the latest of those that are the same for all samples, or (N, K)
        self._moments: Tensor | None = None
        self._hook = module.register_forward_hook(self._listen)

    def close(self) -> None:
        """Stop listening."""
        self._hook.remove()

    def _listen(self, module: Temperature, args: Any, tau: Tensor) -> None:
        if not module.training:
            return
        several = bool(module.names)
        if tau.ndim == several:  # one for all samples: the latest says it all
            self._taus = [tau.detach().reshape(-1)]
            return
        self._taus.append(tau.detach().reshape(-1, len(self.parts)))
        if len(self._taus) >= _COMPACT_EVERY:
            self._compact()

    def _compact(self) -> None:
        """Fold the outputs into (count, sum, sum of squares, −min, max) a part, in float64."""
        taus = torch.cat(self._taus).double()
        self._taus = []
        counted = taus.isfinite()  # of what is missing τ is infinite
        known = taus.masked_fill(~counted, 0.0)
        moments = torch.stack(
            [
                counted.sum(dim=0).double(),
                known.sum(dim=0),
                known.square().sum(dim=0),
                -taus.amin(dim=0),
                taus.masked_fill(~counted, -torch.inf).amax(dim=0),
            ]
        )
        self._moments = moments if self._moments is None else _merge(torch.stack([self._moments, moments]))

    def collect(self, strategy: Any) -> dict[str, dict[str, Tensor]]:
        """Statistics since the last call, over all processes, by part and suffix of their name.

        ``""`` is τ: the latest of one that is the same for all samples, the mean of a per-sample one; the latter has
        ``"_std"``, ``"_min"`` and ``"_max"`` too. A temperature that gives one τ has the part ``""``. Without output,
        as of what is missing in all samples, there is nothing.
        """
        if len(self._taus) == 1 and self._taus[0].ndim == 1:
            latest = self._taus.pop()
            return {part: {"": tau} for part, tau in zip(self.parts, latest.unbind(), strict=True)}
        if self._taus:
            self._compact()
        if self._moments is None:
            return {}
        gathered = strategy.all_gather(self._moments).reshape(-1, 5, len(self.parts))
        self._moments = None
        count, total, squares, negative_minimum, maximum = _merge(gathered).unbind()
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        found = {"": mean, "_std": std, "_min": -negative_minimum, "_max": maximum}
        return {
            part: {key: value[k].float() for key, value in found.items()}
            for k, part in enumerate(self.parts)
            if count[k] > 0
        }


def _merge(moments: Tensor) -> Tensor:
    return torch.cat([moments[:, :3].sum(dim=0), moments[:, 3:].amax(dim=0)])
