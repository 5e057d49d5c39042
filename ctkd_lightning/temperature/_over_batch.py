"""Means over a batch, in training over all processes' batches, for the rules that read more than one sample."""

from __future__ import annotations

import torch
from torch import Tensor

from ctkd_lightning._across_processes import total
from ctkd_lightning.features.outputs import Step


def counted(step: Step | None, logits: Tensor) -> Tensor:
    """Which positions (...) of logits (..., C) a mask keeps; a weight counts as kept, whatever it is."""
    if step is None or step.mask is None:
        return torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device)
    return step.mask != 0


def mean_over_batch(values: Tensor, counts: Tensor, *, together: bool) -> Tensor:
    """The mean (K,) over all positions of values (..., K); 0 of none.

    Args:
        values: finite where they do not count, too.
        counts: which of them count, the same shape.
        together: over all processes' values, through which gradients flow. All processes must call it.
    """
    shape = -1, values.shape[-1]
    sums = torch.stack([values.where(counts, 0.0).reshape(shape).sum(0), counts.reshape(shape).sum(0).to(values.dtype)])
    sums = total(sums) if together else sums
    return sums[0] / sums[1].clamp(min=1)
