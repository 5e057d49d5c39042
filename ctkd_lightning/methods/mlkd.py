"""Multi-level logit distillation: predictions aligned by sample, by batch and by class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features.outputs import NetworkOutput, Step, at_least_float32
from ctkd_lightning.methods._base import LogitMethod
from ctkd_lightning.methods._checks import check_logits, no_autocast, possible_classes
from ctkd_lightning.methods.kd import kd_loss
from ctkd_lightning.temperature._softening import Softening

FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5)


def mlkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor | Softening,
    factors: Sequence[float] = FACTORS,
) -> Tensor:
    r"""Softened divergence plus distances of the predictions' Gram matrices, summed over several temperatures.

    .. math::
        L = \sum_k \mathrm{KD}_{\tau_k} + \frac{1}{B} \lVert Q Q^\top - P P^\top \rVert_F^2
            + \frac{1}{C} \lVert Q^\top Q - P^\top P \rVert_F^2, \qquad \tau_k = f_k \tau

    with Q and P the (B, C) predictions of student and teacher at :math:`\tau_k`, and KD of :func:`kd_loss`. With the
    default factors and τ = 4 the temperatures are the paper's 2, 3, 4, 5, 6. Computed in float32 or wider.

    Jin et al., *Multi-Level Logit Distillation*, CVPR 2023,
    https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html. The
    authors' code also trains on a second, strongly augmented view, and leaves samples and classes out by the teacher's
    confidence; the paper's equations have neither.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        temperature: τ > 0: a float, a scalar tensor, or one per sample (B,) or (B, 1), whose values are not looked
            at; or a :class:`~ctkd_lightning.Softening`.
        factors: f, one or more, positive.

    Returns:
        A scalar.

    Raises:
        UserError: logits that are not both (B, C), no factors, or factors or a float temperature that are not positive
            and finite.

    Example:
        >>> logits = torch.eye(3)
        >>> mlkd_loss(logits, logits.flip(0), temperature=4.0) > mlkd_loss(logits, logits, temperature=4.0)
        tensor(True)
    """
    check_logits(student_logits, teacher_logits, ndim=2)
    _check_factors(factors)
    student, teacher = at_least_float32(student_logits), at_least_float32(teacher_logits)
    softening = Softening.at(temperature, student)
    with no_autocast(student):
        return torch.stack([_aligned(student, teacher, softening.times(factor)) for factor in factors]).sum()


def _check_factors(factors: Sequence[float]) -> None:
    if isinstance(factors, str) or not isinstance(factors, Sequence) or not factors:
        raise UserError(f"MLKD's factors must be one number or more in a list, found {factors!r}")
    for factor in factors:
        check_number("each of MLKD's factors", factor, above=0)


def _aligned(student: Tensor, teacher: Tensor, softening: Softening) -> Tensor:
    q = softening.soften_student(student).log_softmax(dim=-1).exp()
    p = softening.soften_teacher(teacher).log_softmax(dim=-1).exp()
    batch = (q @ q.T - p @ p.T).square().sum() / max(len(q), 1)
    # masked classes, whose rows and columns are zero, do not count
    count = possible_classes(student, teacher).any(dim=0).sum().clamp(min=1)
    classes = (q.T @ q - p.T @ p).square().sum() / count
    return kd_loss(student, teacher, softening) + batch + classes


class MLKD(LogitMethod):
    """Multi-level distillation around the temperature of the module: :func:`mlkd_loss` as a term of the loss.

    Args:
        factors: of the temperature: one or more, positive.
        weight: factor of the term.
        gather: whether it relates, in training, the samples of all processes' batches, as one process with all of them
            would; else those of each process's own.

    Raises:
        UserError: a setting out of range; at :meth:`build`, logits of more than one position a sample, whose number the
            terms would grow with, one of them as its square.
    """

    facts = MethodFacts(
        paper="Jin, CVPR 2023",
        url="https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html",
        weight_from="authors' code",
        tau="five around it",
        cost="5 · (B² + C²)",
    )

    relational = True
    takes_mask = False  # rows and columns of the batch: it is given the rows that the mask keeps

    def __init__(self, factors: Sequence[float] = FACTORS, weight: float = 0.9, gather: bool = True) -> None:
        super().__init__(weight, gather=gather)
        _check_factors(factors)
        self.factors = tuple(factors)

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """Refuse maps and tokens."""
        if student.logits.ndim > 2:
            raise UserError(
                f"MLKD relates each row of logits with each other, and logits {tuple(student.logits.shape)} have a row "
                "a position: its terms between classes would grow with the square of their number; take KD, DIST, or "
                "for maps CWD of the logits"
            )

    def loss(self, student: Tensor, teacher: Tensor, step: Step, softening: Softening) -> Tensor:
        """The divergences and distances of all levels."""
        return mlkd_loss(*self.whole_rows(student, teacher, softening), self.factors)
