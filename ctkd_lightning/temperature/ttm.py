"""Transformed teacher matching as a temperature: the teacher alone is softened."""

from __future__ import annotations

from torch import Tensor

from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning.temperature._rule import RuleTemperature
from ctkd_lightning.temperature._softening import Softening, bounded_below


def ttm_softening(base: Softening, student_logits: Tensor, teacher_logits: Tensor) -> Softening:
    r""":math:`\tau_s = 1`, :math:`\tau_t = \tau`, and no factor: the student's gradient does not shrink with τ.

    Zheng and Yang, *Knowledge Distillation Based on Transformed Teacher Matching*, ICLR 2024,
    https://arxiv.org/abs/2402.11148. The paper's γ is 1 / τ.

    Args:
        base: τ.
        student_logits: (..., C).
        teacher_logits: the same shape.
    """
    one = base.teacher.new_ones(())
    return Softening(one, base.teacher, one, teacher_shift=base.teacher_shift)


def wttm_softening(base: Softening, student_logits: Tensor, teacher_logits: Tensor) -> Softening:
    r""":func:`ttm_softening` with the factor :math:`\sum_c \mathrm{softmax}(t)_c^{1 / \tau}`: more where it is unsure.

    It lies between 1 (a sure teacher) and :math:`C^{1 - 1 / \tau}`.

    Args:
        base: τ.
        student_logits: (..., C).
        teacher_logits: the same shape.
    """
    prediction = bounded_below(teacher_logits).log_softmax(dim=-1)
    weight = (prediction / base.teacher).logsumexp(dim=-1).exp()
    return Softening(base.teacher.new_ones(()), base.teacher, weight, teacher_shift=base.teacher_shift)


class TTMTemperature(RuleTemperature):
    """τ for the teacher alone, as :func:`ttm_softening`, for any method.

    Args:
        base: what gives τ; ``FixedTemperature(10.0)``, the γ = 0.1 of the paper's code, by default.
    """

    facts = TemperatureFacts(
        paper="Zheng, ICLR 2024",
        url="https://arxiv.org/abs/2402.11148",
        what="for the teacher alone",
        student="1",
        scale="1",
        breaks="the published weight, 45, beside a τ that learns and falls: the student diverges",
    )

    default_tau = 10.0
    rule = staticmethod(ttm_softening)


class WTTMTemperature(RuleTemperature):
    """τ for the teacher alone, and a weight for each sample, as :func:`wttm_softening`, for any method.

    Args:
        base: what gives τ; ``FixedTemperature(5.0)``, the γ = 0.2 of the paper's code, by default.
    """

    facts = TemperatureFacts(
        paper="Zheng, ICLR 2024",
        url="https://arxiv.org/abs/2402.11148",
        what="for the teacher alone, and a weight for each sample",
        student="1",
        scale="Σ softmax(t)^(1/τ), one a sample",
        breaks="as ttm; with an unsure teacher the factor is large, up to C^(1 − 1/τ), and its steps too: lower KD's "
        "weight, or warm up",
    )

    default_tau = 5.0
    rule = staticmethod(wttm_softening)
