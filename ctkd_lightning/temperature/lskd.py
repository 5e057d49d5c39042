"""LSKD's logit standardisation as a temperature."""

from __future__ import annotations

from torch import Tensor

from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning.temperature._rule import RuleTemperature, spread
from ctkd_lightning.temperature._softening import Softening


def lskd_softening(base: Softening, student_logits: Tensor, teacher_logits: Tensor) -> Softening:
    r"""Standardised logits over τ: :math:`\tau_s = \tau \sigma(s)`, :math:`\tau_t = \tau \sigma(t)`, τ's factor.

    Sun et al., *Logit Standardization in Knowledge Distillation*, CVPR 2024, https://arxiv.org/abs/2403.01427.

    Args:
        base: τ.
        student_logits: (..., C).
        teacher_logits: the same shape.
    """
    mean_s, _, sigma_s = spread(student_logits)
    mean_t, _, sigma_t = spread(teacher_logits)
    return Softening(base.student * sigma_s, base.teacher * sigma_t, base.scale, mean_s, mean_t)


class LSKDTemperature(RuleTemperature):
    r"""τ in each side's standard deviations: :math:`\tau_s = \tau \sigma(s)`, :math:`\tau_t = \tau \sigma(t)`.

    The factor of the loss is τ² alone. The gradient passes through σ(s). As :func:`lskd_softening`, for any method.

    Args:
        base: what gives τ; ``FixedTemperature(2.0)``, the paper's, by default.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[3.0, 0.0, 1.0]])
        >>> softening = LSKDTemperature().soften(10 * teacher + 7, teacher)
        >>> bool((softening.student / softening.teacher - 10).abs() < 1e-4)
        True
    """

    facts = TemperatureFacts(
        paper="Sun, CVPR 2024",
        url="https://arxiv.org/abs/2403.01427",
        what="in standard deviations of each side's logits",
        student="τ σ(s)",
        teacher="τ σ(t)",
        needs="scores of classes, three at least",
        breaks="equal logits: the published gradient is 10⁶ times too large; here the deviation has a floor",
    )

    needs_classes = True  # two scores in their own deviations are a sign, without a gradient
    rule = staticmethod(lskd_softening)
