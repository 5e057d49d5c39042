"""How many samples had which temperature over an epoch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ctkd_lightning.callbacks._temperature_record import TemperatureRecord

LOW, HIGH, BINS = 1e-2, 1e3, 1024
"""The bins, of equal width in log τ: 1.1 % of τ each, whatever temperature it is. The outer two take what is beyond."""

_PER_BIN = BINS / math.log(HIGH / LOW)


class TemperatureHistogram(TemperatureRecord):
    """Count a temperature's outputs by their size, without waiting for the device."""

    def _fold(self, taus: Tensor) -> Tensor:
        """Outputs (N, K) as counts (BINS, K)."""
        counted = taus.isfinite()  # of what is missing τ is infinite
        log_tau = taus.double().masked_fill(~counted, LOW).log()
        bins = ((log_tau - math.log(LOW)) * _PER_BIN).long().clamp(0, BINS - 1)
        return torch.zeros(BINS, taus.shape[1], dtype=torch.int64, device=taus.device).scatter_add_(
            0, bins, counted.long()
        )

    def _merge(self, folded: Tensor) -> Tensor:
        return folded.sum(dim=0)

    def counts(self, strategy: Any) -> Tensor | None:
        """Samples in each bin since the last call, over all processes, (BINS, K).

        ``None`` where there was no output, or τ is one for all samples.
        """
        if self._same_for_all:
            self._taus = []
            return None
        return self._gather(strategy)
