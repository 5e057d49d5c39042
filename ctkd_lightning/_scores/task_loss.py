"""The task's own loss: (binary) cross-entropy of logits that have their classes last."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ctkd_lightning._masks import mean_over_positions
from ctkd_lightning._scores.scores import Scores
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import at_least_float32


def task_loss(scores: Scores, logits: Tensor, target: Tensor, classes: Tensor | None, mask: Tensor | None) -> Tensor:
    """Cross-entropy, or under ``binary`` and ``multilabel`` binary cross-entropy; the mean over the positions.

    Args:
        scores: what the scores mean.
        logits: (..., C), as :meth:`Scores.logits` makes them.
        target: as the batch has it: class indices, ones and zeros, or probabilities.
        classes: the same as class indices, one a position; ``None`` where it is of another kind.
        mask: the positions that count; ``None`` for all.

    Returns:
        A scalar, float32 or wider; 0 where the mask keeps nothing.

    Raises:
        UserError: a target that fits neither the positions nor the logits.
    """
    logits, positions = at_least_float32(logits), logits.shape[:-1]
    if scores.single:
        if classes is None:
            raise UserError(_misfit(target, positions))
        expected = target.reshape(positions).to(logits.dtype)
        expected = expected if mask is None else expected.masked_fill(mask == 0, 0)
        # of x in (x, 0), and of log p - log (1 - p) in (log p, log (1 - p))
        loss = F.binary_cross_entropy_with_logits(logits[..., 0] - logits[..., 1], expected, reduction="none")
        return mean_over_positions(loss, mask)
    if classes is None:
        if target.shape != logits.shape or not target.is_floating_point():
            raise UserError(_misfit(target, positions))
        loss = F.cross_entropy(logits.flatten(0, -2), target.flatten(0, -2).to(logits.dtype), reduction="none")
        return mean_over_positions(loss.view(positions), mask)
    return class_cross_entropy(logits, classes, mask)


def class_cross_entropy(logits: Tensor, classes: Tensor, mask: Tensor | None) -> Tensor:
    """Cross-entropy with one class a position; the mean over the positions.

    Args:
        logits: (..., C).
        classes: (...), class indices; anything at positions that the mask leaves out.
        mask: as for :func:`task_loss`.

    Returns:
        A scalar, float32 or wider; 0 where there are no positions, or the mask keeps none.
    """
    rows, indices = at_least_float32(logits).flatten(0, -2), classes.flatten().long()
    if mask is None and len(rows):
        return F.cross_entropy(rows, indices)
    if mask is None:  # an empty batch, of which the mean would be NaN
        return rows.sum()
    loss = F.cross_entropy(rows, indices.masked_fill(mask.flatten() == 0, 0), reduction="none")
    return mean_over_positions(loss.view(mask.shape), mask)


def _misfit(target: Tensor, positions: tuple[int, ...]) -> str:
    return (
        f"target has shape {tuple(target.shape)} and type {target.dtype}, and the scores' positions are "
        f"{tuple(positions)}: pass one class index a position (1 or 0 under task='binary' and 'multilabel'), or "
        "probabilities of the scores' shape, classes last"
    )
