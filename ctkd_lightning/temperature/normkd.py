"""NormKD's normalised logits as a temperature."""

from __future__ import annotations

from torch import Tensor

from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning.temperature._rule import RuleTemperature, spread
from ctkd_lightning.temperature._softening import Softening


def normkd_softening(base: Softening, student_logits: Tensor, teacher_logits: Tensor) -> Softening:
    r"""τ in standard deviations, and the factor :math:`(\tau \sigma(t))^2`.

    Chi et al., *NormKD: Normalized Logits for Knowledge Distillation*, 2023, https://arxiv.org/abs/2308.00520.

    Args:
        base: τ.
        student_logits: (..., C).
        teacher_logits: the same shape.
    """
    mean_s, _, sigma_s = spread(student_logits)
    mean_t, variance_t, sigma_t = spread(teacher_logits)
    scale = base.scale * variance_t.squeeze(-1)
    return Softening(base.student * sigma_s, base.teacher * sigma_t, scale, mean_s, mean_t)


class NormKDTemperature(RuleTemperature):
    r"""τ in each side's standard deviations: :math:`\tau_s = \tau \sigma(s)`, :math:`\tau_t = \tau \sigma(t)`.

    The factor of the loss is the teacher's, :math:`(\tau \sigma(t))^2`. The gradient passes through σ(s). As
    :func:`normkd_softening`, for any method.

    Args:
        base: what gives τ; ``FixedTemperature(2.0)``, the paper's, by default.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[-3.0, 0.0, 3.0]])
        >>> NormKDTemperature().soften(logits, logits).scale
        tensor([36.])
    """

    facts = TemperatureFacts(
        paper="Chi 2023",
        url="https://arxiv.org/abs/2308.00520",
        what="in standard deviations of each side's logits",
        student="τ σ(s)",
        teacher="τ σ(t)",
        scale="(τ σ(t))²",
        needs="scores of classes, three at least",
        breaks="equal logits: the published gradient is NaN; here the deviation has a floor",
    )

    needs_classes = True  # two scores in their own deviations are a sign, without a gradient
    rule = staticmethod(normkd_softening)
