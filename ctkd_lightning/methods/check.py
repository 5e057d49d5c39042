"""Checks and conversions that the losses share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ctkd_lightning.errors import UserError
from ctkd_lightning.outputs import is_integer


def check_logits(student: Tensor, teacher: Tensor, ndim: int | None = None) -> None:
    """Refuse logits whose shapes differ.

    Args:
        student: (..., C).
        teacher: (..., C).
        ndim: 2 where a loss takes (B, C) alone; any from 1 where it is None.

    Raises:
        UserError: naming both shapes.
    """
    if student.shape != teacher.shape:
        problem = "both networks must score the same samples and classes"
    elif not (student.ndim if ndim is None else student.ndim == ndim):
        problem = f"expected {'(..., C)' if ndim is None else '(B, C)'}"
    else:
        return
    shapes = f"student logits have shape {tuple(student.shape)} and teacher logits {tuple(teacher.shape)}"
    raise UserError(f"{shapes}: {problem}")


def masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logits (..., C), zero at the positions that a mask leaves out.

    They may be anything there, NaN too, which a gradient of zero would carry on: zero times NaN.
    """
    return logits if mask is None else logits.masked_fill((mask == 0).unsqueeze(-1), 0.0)


def mean_over_positions(loss: Tensor, mask: Tensor | None) -> Tensor:
    r"""The mean :math:`\sum_i w_i l_i / \sum_i w_i` over the positions that a mask keeps; 0 where there are none.

    Args:
        loss: (...).
        mask: the same shape; truth values or integers keep a position or not, floating ones are its weight w.

    Raises:
        UserError: another shape.
    """
    if mask is None:
        return loss.mean() if loss.numel() else loss.sum()
    left_out = mask == 0
    kept = loss.masked_fill(left_out, 0.0)
    if mask.is_floating_point():
        weight = mask.to(loss.dtype)
        return (kept * weight).sum() / weight.sum().clamp(min=torch.finfo(loss.dtype).tiny)
    return kept.sum() / left_out.logical_not().sum().clamp(min=1)


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


def need_target(target: Tensor | None, name: str) -> Tensor:
    """The target, for a method that reads it.

    Raises:
        UserError: there is none.
    """
    if target is None:
        raise UserError(
            f"{name} needs the class indices, whole numbers, and the batch has none in a usual place (its second "
            "entry, labels, label, targets, target, y) or more than one that could be them: pick them with "
            "target=lambda batch: …"
        )
    return target


def check_target(target: Tensor, logits: Tensor) -> None:
    """Refuse targets that are not one class index for each row of the logits (..., C).

    Their values are not looked at: that would wait for the device at each step.

    Raises:
        UserError: naming what was found.
    """
    if target.shape != logits.shape[:-1] or not is_integer(target):
        raise UserError(
            f"target has shape {tuple(target.shape)} and type {target.dtype}: expected one class index for each of "
            f"the logits' rows, shape {tuple(logits.shape[:-1])}"
        )


def check_features(student: Tensor, teacher: Tensor, *, ndim: int | None = None, same_shape: bool = False) -> None:
    """Refuse features that are not of the same batch, or not of the shapes that a loss needs.

    Args:
        student: (B, …).
        teacher: (B, …).
        ndim: number of dimensions: 2 for vectors (B, D), 4 for maps (B, D, H, W); any from 2 where it is None.
        same_shape: whether the shapes must be the same.

    Raises:
        UserError: naming both shapes.
    """
    found = f"student features have shape {tuple(student.shape)} and teacher features {tuple(teacher.shape)}"
    if student.ndim < 2 or teacher.ndim < 2 or len(student) != len(teacher):
        raise UserError(f"{found}: expected (B, …) of the same batch")
    if ndim is not None and not student.ndim == teacher.ndim == ndim:
        raise UserError(f"{found}: expected {'vectors (B, D)' if ndim == 2 else 'maps (B, D, H, W)'}")
    if same_shape and student.shape != teacher.shape:
        raise UserError(f"{found}: expected the same shape; an adapter on the student's side can bring it about")


def no_autocast(like: Tensor) -> torch.autocast:
    """Turn autocast off where a loss multiplies matrices: in half precision its value would keep three digits."""
    return torch.autocast(like.device.type, enabled=False)


def unit(x: Tensor, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """Scale to Euclidean length 1 along ``dim``; what is shorter than ``eps`` stays as it is.

    ``functional.normalize`` multiplies the gradient of a zero vector, say of a sample whose features are all
    rectified away, by 1e12.
    """
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / torch.where(norm > eps, norm, torch.ones_like(norm))


def centred_unit(x: Tensor, dim: int, floor: float) -> Tensor:
    r"""Subtract the mean along ``dim`` and scale to length 1: :math:`c / \sqrt{\lVert c \rVert^2 + \mathrm{floor}^2}`.

    The floor bounds the gradient of what hardly varies, and takes constants to zero.
    """
    centred = x - x.mean(dim, keepdim=True)
    return centred * (centred.square().sum(dim, keepdim=True) + floor**2).rsqrt()


def pool_to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool maps (B, D, H, W) so that both have the smaller one's height and width."""
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    pooled = [x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (student, teacher)]
    return pooled[0], pooled[1]
