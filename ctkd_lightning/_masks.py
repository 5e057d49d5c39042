"""Masks that keep or weigh positions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ctkd_lightning.errors import UserError


def masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logits (..., C), zero at the positions that a mask leaves out.

    They may be anything there, NaN too, which a gradient of zero would carry on: zero times NaN.
    """
    return logits if mask is None else logits.masked_fill((mask == 0).unsqueeze(-1), 0.0)


def mean(x: Tensor) -> Tensor:
    """The mean of all entries; 0 of none, as of an empty batch, where PyTorch's is NaN."""
    return x.mean() if x.numel() else x.sum()


def reduction(x: Tensor) -> str:
    """The ``reduction=`` with which PyTorch's functional losses are :func:`mean` of their like."""
    return "mean" if x.numel() else "sum"


def mean_over_positions(loss: Tensor, mask: Tensor | None) -> Tensor:
    r"""The mean :math:`\sum_i w_i l_i / \sum_i w_i` over the positions that a mask keeps; 0 where there are none.

    Args:
        loss: (...).
        mask: the same shape; truth values or integers keep a position or not, floating ones are its weight w.

    Raises:
        UserError: another shape.
    """
    if mask is None:
        return mean(loss)
    left_out = mask == 0
    kept = loss.masked_fill(left_out, 0.0)
    if mask.is_floating_point():
        weight = mask.to(loss.dtype)
        return (kept * weight).sum() / weight.sum().clamp(min=torch.finfo(loss.dtype).tiny)
    return kept.sum() / left_out.logical_not().sum().clamp(min=1)


def entries(mask: Tensor | None, positions: Sequence[int], device: torch.device) -> Tensor:
    """What :func:`mean_over_positions` divides by: how many positions there are, or their weights' sum; float64."""
    if mask is None:
        return torch.full((), math.prod(positions), dtype=torch.float64, device=device)
    return (mask if mask.is_floating_point() else mask != 0).sum(dtype=torch.float64)


def check_mask(mask: Tensor | None, logits: Tensor) -> None:
    """Refuse a mask that is not one entry for each of the positions of logits (..., C).

    Raises:
        UserError: naming both shapes.
    """
    positions = logits.shape[:-1]
    if mask is not None and mask.shape != positions:
        raise UserError(
            f"mask has shape {tuple(mask.shape)}, the logits' positions are {tuple(positions)}: "
            "pass one entry a position"
        )
