"""How well temperatures tell corrupted samples."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.classification import BinaryAUROC
from torchmetrics.utilities import dim_zero_cat


class TemperatureAUROC(BinaryAUROC):
    """Area under the ROC curve of τ for the corrupted samples: 1 where theirs are the highest, 0.5 by chance.

    NaN where all samples are corrupted or none is: there is nothing to tell apart.
    """

    def update(self, tau: Tensor, bad: Tensor) -> None:
        """Count a batch: τ (B,), and which samples are corrupted (B,)."""
        super().update(tau / (1 + tau), bad.long())  # in order, and between 0 and 1

    def compute(self) -> Tensor:  # type: ignore[override]
        """0 to 1, or NaN."""
        bad = dim_zero_cat(self.target)
        if not bad.any() or bad.all():
            return torch.full((), torch.nan, device=bad.device)
        area: Tensor = super().compute()
        return area
