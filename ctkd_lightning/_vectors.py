"""Networks whose outputs are vectors, of a regression or embeddings: nothing softens these."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from ctkd_lightning._masks import reduction
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import NetworkOutput, Step, at_least_float32
from ctkd_lightning.methods import Method

POOLED = "pooled"
"""The feature role that the outputs have, which methods of vectors read."""


def check_vector_methods(terms: Mapping[str, Method]) -> None:
    """Refuse methods that soften scores of classes.

    Raises:
        UserError: naming one, and what goes with vectors.
    """
    softened = [name for name, method in terms.items() if method.uses_temperature or not method.needs]
    if softened:
        raise UserError(
            f"method {softened[0]} softens the scores of classes, and with task='vectors' there are none, so that no "
            "temperature has an effect: take a method of vectors, such as VectorKD(), RKD() or PKT()"
        )


def check_vectors(student: Tensor, teacher: Tensor) -> None:
    """Refuse outputs that are not (..., D) of the same positions; their D may differ.

    Raises:
        UserError: naming both shapes.
    """
    if student.ndim < 2 or student.shape[:-1] != teacher.shape[:-1]:
        raise UserError(
            f"student vectors have shape {tuple(student.shape)} and teacher vectors {tuple(teacher.shape)}: both must "
            "be (B, D), or (B, …, D) of the same positions; pick them with student_logits= and teacher_logits="
        )


def check_keeps(mask: Tensor | None) -> None:
    """Refuse a mask of weights.

    Raises:
        UserError: it has floating values.
    """
    if isinstance(mask, Tensor) and mask.is_floating_point():
        raise UserError(
            "with task='vectors' a mask keeps positions or leaves them out, found floating values, which would be "
            "weights: pass mask != 0"
        )


def vector_rows(
    student: NetworkOutput, teacher: NetworkOutput, step: Step, mask: Tensor | None
) -> tuple[NetworkOutput, NetworkOutput, Step]:
    """The vectors (N, D) that a mask keeps, also under the role of pooled features; the target likewise, if it fits.

    Of other features the samples with a position that it keeps.
    """
    whole = student.logits.ndim == 2 and mask is None
    samples = None if mask is None else (mask != 0).flatten(1).any(dim=1) if mask.ndim > 1 else mask != 0

    def rows(x: Tensor) -> Tensor:
        return x if whole else x.flatten(0, -2) if mask is None else x[mask != 0]

    def of(output: NetworkOutput) -> NetworkOutput:
        found = rows(output.logits)
        others = {role: x if samples is None else x[samples] for role, x in output.features.items()}
        return NetworkOutput(found, {**others, POOLED: found}, output.classifier)

    fits = step.target is not None and step.target.shape == student.logits.shape
    target = rows(step.target) if fits and step.target is not None else None
    return of(student), of(teacher), Step(target, step.index if whole else None)


def vector_task_loss(student: NetworkOutput, target: Tensor | None, given: Tensor) -> Tensor:
    """Mean squared error with a target of the outputs' shape.

    Raises:
        UserError: it has another one.
    """
    if target is None:
        raise UserError(
            f"task='vectors' compares the target with the vectors themselves, found one of shape {tuple(given.shape)}: "
            "pass task_loss=, the loss that goes with it, or leave target out"
        )
    logits = at_least_float32(student.logits)
    return F.mse_loss(logits, target.to(logits.dtype), reduction=reduction(logits))
