"""What a temperature gave over an epoch."""

from __future__ import annotations

from collections.abc import Mapping
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
        self._folded: Tensor | None = None
        self._hook = module.register_forward_hook(self._listen)

    def close(self) -> None:
        """Stop listening."""
        self._hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """What was heard since the last call of :meth:`collect`, for a checkpoint within an epoch; on the CPU."""
        folded = None if self._folded is None else self._folded.cpu()
        return {"taus": [tau.cpu() for tau in self._taus], "folded": folded}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with it."""
        self._taus, self._folded = list(state["taus"]), state["folded"]

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
        device = self._taus[-1].device  # what a checkpoint had is still on the CPU
        taus = torch.cat([tau.to(device) for tau in self._taus])
        self._taus = []
        folded = self._fold(taus)
        self._folded = folded if self._folded is None else self._merge(torch.stack([self._folded.to(device), folded]))

    def _fold(self, taus: Tensor) -> Tensor:
        """Outputs (N, K) as (count, sum, sum of squares, −min, max) a part, (5, K), in float64."""
        taus = taus.double()
        counted = taus.isfinite()  # of what is missing τ is infinite
        known = taus.masked_fill(~counted, 0.0)
        return torch.stack(
            [
                counted.sum(dim=0).double(),
                known.sum(dim=0),
                known.square().sum(dim=0),
                -taus.amin(dim=0),
                taus.masked_fill(~counted, -torch.inf).amax(dim=0),
            ]
        )

    def _merge(self, folded: Tensor) -> Tensor:
        """What was folded in several places or times, (n, …), as one."""
        return torch.cat([folded[:, :3].sum(dim=0), folded[:, 3:].amax(dim=0)])

    def _gather(self, strategy: Any) -> Tensor | None:
        """What was folded since the last call, over all processes; ``None`` where there was nothing."""
        if self._taus:
            self._compact()
        if self._folded is None:
            return None
        shape, gathered = self._folded.shape, strategy.all_gather(self._folded)
        self._folded = None
        return self._merge(gathered.reshape(-1, *shape))

    @property
    def _same_for_all(self) -> bool:
        """Whether the latest τ was one for all samples."""
        return len(self._taus) == 1 and self._taus[0].ndim == 1

    def collect(self, strategy: Any) -> dict[str, dict[str, Tensor]]:
        """Statistics since the last call, over all processes, by part and suffix of their name.

        ``""`` is τ: the latest of one that is the same for all samples, the mean of a per-sample one; the latter has
        ``"_std"``, ``"_min"`` and ``"_max"`` too. A temperature that gives one τ has the part ``""``. Without output,
        as of what is missing in all samples, there is nothing.
        """
        if self._same_for_all:
            latest = self._taus.pop()
            return {part: {"": tau} for part, tau in zip(self.parts, latest.unbind(), strict=True)}
        moments = self._gather(strategy)
        if moments is None:
            return {}
        count, total, squares, negative_minimum, maximum = moments.unbind()
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        found = {"": mean, "_std": std, "_min": -negative_minimum, "_max": maximum}
        return {
            part: {key: value[k].float() for key, value in found.items()}
            for k, part in enumerate(self.parts)
            if count[k] > 0
        }
