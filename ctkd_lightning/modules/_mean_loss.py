"""The mean of a loss over an epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanLoss(Metric):
    """The mean over all that counts, of all batches and processes; not finite where a batch's loss is not.

    Lightning's own mean over processes divides the number of samples by that of processes *in whole numbers*, which is
    wrong by as much as a few per cent on small sets; torchmetrics' drops losses that are NaN, or else the weights.

    Example:
        >>> mean = MeanLoss()
        >>> mean.update(torch.tensor(1.0), 1)
        >>> mean.update(torch.tensor(4.0), 2)
        >>> mean.compute()
        tensor(3.)
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weight", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, weight: Tensor | float) -> None:
        """Add a batch's mean loss.

        Args:
            loss: a scalar.
            weight: how many entries it is the mean of, or the sum of their weights.
        """
        self.total += loss.detach() * weight
        self.weight += weight

    def compute(self) -> Tensor:
        """The mean; 0 where nothing counts."""
        return self.total / self.weight.clamp(min=torch.finfo(self.weight.dtype).tiny)
