"""Checks and conversions that the losses share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import is_integer
from ctkd_lightning.temperature._softening import masked_classes


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


def possible_classes(student: Tensor, teacher: Tensor) -> Tensor:
    """Which of the logits (..., C) are not masked by both networks."""
    return ~masked_classes(torch.maximum(student, teacher))


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


def centred_unit(x: Tensor, dim: int, floor: float, among: Tensor | None = None) -> Tensor:
    r"""Subtract the mean along ``dim`` and scale to length 1: :math:`c / \sqrt{\lVert c \rVert^2 + \mathrm{floor}^2}`.

    The floor bounds the gradient of what hardly varies, and takes constants to zero. With ``among``, truth values of
    the same shape, only these entries count; the others, which must be zero, stay it.
    """
    if among is None:
        centred = x - x.mean(dim, keepdim=True)
    else:
        centred = (x - x.sum(dim, keepdim=True) / among.sum(dim, keepdim=True).clamp(min=1)) * among
    return centred * (centred.square().sum(dim, keepdim=True) + floor**2).rsqrt()


def pool_to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool maps (B, D, H, W) so that both have the smaller one's height and width."""
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    pooled = [x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (student, teacher)]
    return pooled[0], pooled[1]
