"""Spherical KD's rescaled student as a temperature."""

from __future__ import annotations

from torch import Tensor

from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning.temperature._rule import RuleTemperature, spread
from ctkd_lightning.temperature._softening import Softening


def spherical_softening(base: Softening, student_logits: Tensor, teacher_logits: Tensor) -> Softening:
    r"""The student's logits with the teacher's deviation: :math:`\tau_s = \tau \sigma(s) / \sigma(t)`, the factor τ's.

    Guo et al., *Reducing the Teacher-Student Gap via Spherical Knowledge Distillation*, 2020,
    https://arxiv.org/abs/2010.07485.

    Args:
        base: τ.
        student_logits: (..., C).
        teacher_logits: the same shape.
    """
    mean_s, _, sigma_s = spread(student_logits)
    mean_t, _, sigma_t = spread(teacher_logits)
    return Softening(base.student * sigma_s / sigma_t, base.teacher, base.scale, mean_s, mean_t)


class SphericalTemperature(RuleTemperature):
    r"""The student at the teacher's spread: :math:`\tau_s = \tau \sigma(s) / \sigma(t)`, :math:`\tau_t = \tau`.

    The factor of the loss is τ². The gradient passes through σ(s), so that the student's spread is left to the
    cross-entropy. As :func:`spherical_softening`, for any method.

    The authors' script gives the rescaled student :math:`s \, \sigma(t) / \sigma(s)` to the cross-entropy too; here the
    cross-entropy reads the student's own logits. Their README has another rule, a layer norm of both sides, which is
    :class:`LSKDTemperature` but for the factor and for how σ is counted.

    Args:
        base: what gives τ; ``FixedTemperature(4.0)`` by default.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[3.0, 0.0, 1.0]])
        >>> softening = SphericalTemperature().soften(teacher / 2, teacher)
        >>> softening.student.round(decimals=3), softening.teacher
        (tensor([[2.]]), tensor(4.))
    """

    facts = TemperatureFacts(
        paper="Guo 2020",
        url="https://arxiv.org/abs/2010.07485",
        what="at the teacher's standard deviation",
        student="τ σ(s) / σ(t)",
        needs="scores of classes, three at least",
        breaks="equal logits, as lskd",
    )

    default_tau = 4.0
    needs_classes = True  # two scores in their own deviations are a sign, without a gradient
    rule = staticmethod(spherical_softening)
