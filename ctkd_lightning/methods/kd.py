"""Knowledge distillation: the Kullback-Leibler divergence of softened outputs."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import check_mask, masked, mean_over_positions
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods._base import LogitMethod
from ctkd_lightning.methods._checks import check_logits
from ctkd_lightning.methods._chunked_kd import chunked_divergence, worth_chunking
from ctkd_lightning.temperature._softening import Softening


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor | Softening,
    *,
    mask: Tensor | None = None,
    class_dim: int = -1,
) -> Tensor:
    r"""Softened Kullback-Leibler divergence from teacher to student.

    .. math::
        L = \frac{1}{N} \sum_i \tau_i^2 \sum_c p_{ic} (\log p_{ic} - \log q_{ic}), \qquad
        p_i = \mathrm{softmax}(t_i / \tau_i), \quad q_i = \mathrm{softmax}(s_i / \tau_i)

    with student logits s and teacher logits t, and N the samples (or the positions that the mask keeps). Both sides
    stay in log space, so that the gradients with respect to student, teacher and temperature are finite also where a
    probability underflows to zero. Computed in float32 or wider, whatever the logits' type. Large logits, from some
    million on, are softened in pieces (:mod:`ctkd_lightning.methods._chunked_kd`), in a tenth of the memory and less
    time; there is then no second derivative.

    Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015, https://arxiv.org/abs/1503.02531. The factor
    τ² is applied here and nowhere else.

    Args:
        student_logits: (..., C), or with the classes at ``class_dim``.
        teacher_logits: the same shape.
        temperature: τ > 0: a float, a scalar tensor, one per sample (B,) or (B, 1), or one per position, whose values
            are not looked at; or a :class:`~ctkd_lightning.Softening`, with a τ for each side and a factor of its own
            in the place of τ².
        mask: shape of the logits without the class dimension; false or 0 leaves a position out, whatever its logits,
            and a floating value is its weight in the mean.
        class_dim: where the classes are.

    Returns:
        A scalar; 0 where there are no positions, or the mask keeps none.

    Raises:
        UserError: logits or a mask whose shapes do not fit, a ``class_dim`` that the logits do not have, or a float
            temperature that is not positive and finite.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]])
        >>> kd_loss(student, teacher, temperature=2.0)
        tensor(0.3610)
    """
    check_logits(student_logits, teacher_logits)
    dimensions = student_logits.ndim
    if not -dimensions <= class_dim < dimensions:
        raise UserError(
            f"class_dim is {class_dim}, found logits of shape {tuple(student_logits.shape)}: "
            f"pass a dimension from {-dimensions} to {dimensions - 1}"
        )
    if class_dim not in (-1, dimensions - 1):
        student_logits, teacher_logits = (x.movedim(class_dim, -1) for x in (student_logits, teacher_logits))
    check_mask(mask, student_logits)
    student, teacher = masked(student_logits, mask), masked(teacher_logits, mask)
    return mean_over_positions(divergence(student, teacher, Softening.at(temperature, student)), mask)


def kd_loss_by(
    rule: Callable[[Softening, Tensor, Tensor], Softening],
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor | Softening,
    mask: Tensor | None,
) -> Tensor:
    """:func:`kd_loss` as a rule softens it that reads the logits, which are masked before.

    Args:
        rule: from τ's softening and both logits to the one that holds.
        student_logits: (..., C).
        teacher_logits: the same shape.
        temperature: as for :func:`kd_loss`.
        mask: likewise.
    """
    check_logits(student_logits, teacher_logits)
    check_mask(mask, student_logits)
    student, teacher = masked(student_logits, mask), masked(teacher_logits, mask)
    return kd_loss(student, teacher, rule(Softening.at(temperature, student), student, teacher), mask=mask)


def divergence(student: Tensor, teacher: Tensor, softening: Softening) -> Tensor:
    """The softened divergence at each position (...) of logits (..., C), times the softening's factor."""
    if softening.tau is not None and worth_chunking(student, teacher):
        return divergence_in_pieces(student, teacher, softening.tau)
    return divergence_at_once(student, teacher, softening)


def divergence_at_once(student: Tensor, teacher: Tensor, softening: Softening) -> Tensor:
    """:func:`divergence`, all rows together."""
    log_p = softening.soften_teacher(teacher).log_softmax(dim=-1)
    log_q = softening.soften_student(student).log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1) * softening.scale


def divergence_in_pieces(student: Tensor, teacher: Tensor, tau: Tensor) -> Tensor:
    """:func:`divergence` of one τ (a scalar or (..., 1)), some rows at a time."""
    positions = student.shape[:-1]
    rows = tau.expand(*positions, 1).reshape(-1, 1)
    return chunked_divergence(student.flatten(0, -2), teacher.flatten(0, -2), rows).view(positions)


class KD(LogitMethod):
    """Knowledge distillation with the temperature of the module: :func:`kd_loss` as a term of the loss.

    Args:
        weight: factor of the term (the CTKD paper's α, 0.9).
        warmup_epochs: epochs over which the factor rises linearly; the authors of :class:`DynamicTemperature` and
            :class:`ClassScaledTemperature` have 20.
    """

    facts = MethodFacts(
        paper="Hinton 2015",
        url="https://arxiv.org/abs/1503.02531",
        weight_from="CTKD's code",
    )

    def __init__(self, weight: float = 0.9, warmup_epochs: int = 0) -> None:
        super().__init__(weight, warmup_epochs)

    def loss(self, student: Tensor, teacher: Tensor, step: Step, softening: Softening) -> Tensor:
        """The softened divergence."""
        return kd_loss(student, teacher, softening, mask=step.mask)
