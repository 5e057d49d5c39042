"""DTKD's temperatures by the largest logits."""

from __future__ import annotations

from torch import Tensor

from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning.errors import check_number
from ctkd_lightning.features.outputs import Step, at_least_float32
from ctkd_lightning.temperature._base import Temperature
from ctkd_lightning.temperature._rule import RuleTemperature
from ctkd_lightning.temperature._softening import Softening


def dynamic_softening(base: Softening, student_logits: Tensor, teacher_logits: Tensor, floor: float) -> Softening:
    r"""τ shared out by the largest logits, :math:`x = \max(\max_c s_c, \epsilon)` and :math:`y` of the teacher.

    .. math:: \tau_s = \frac{2 x}{x + y} \tau, \qquad \tau_t = \frac{2 y}{x + y} \tau, \qquad \tau_s \tau_t

    with the last for the factor. Wei and Bai, *Dynamic Temperature Knowledge Distillation*, 2024,
    https://arxiv.org/abs/2404.12711.

    Args:
        base: τ.
        student_logits: (..., C).
        teacher_logits: the same shape.
        floor: ε, in the logits' unit.
    """
    x, y = (at_least_float32(z).amax(dim=-1, keepdim=True).clamp(min=floor) for z in (student_logits, teacher_logits))
    of_student, of_teacher = 2 * x / (x + y), 2 * y / (x + y)
    scale = base.scale * (of_student * of_teacher).squeeze(-1)
    shifts = base.student_shift, base.teacher_shift
    return Softening(base.student * of_student, base.teacher * of_teacher, scale, *shifts)


class DynamicTemperature(RuleTemperature):
    r"""DTKD: the side with the larger logits is softened more, and the two τ have the mean τ.

    As :func:`dynamic_softening`, for any method; the gradient passes through :math:`\max_c s_c`, also in the factor.

    The authors' code has no floor: τ is 0 where a side's largest logit is 0, infinite where the two cancel, and
    *negative* where they have opposite signs, with a negative loss and a finite gradient, so that nothing warns. Here
    no largest logit counts as less than ``floor``, from which on both agree. A largest logit says something only of
    logits that share one scale: independent scores (``task="binary"``, ``"multilabel"``) are refused.

    Args:
        base: what gives τ; ``FixedTemperature(4.0)``, the paper's, by default.
        floor: ε > 0.

    Raises:
        UserError: a floor that is no positive number.

    Example:
        >>> import torch
        >>> softening = DynamicTemperature().soften(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
        >>> softening.student, softening.teacher
        (tensor([[2.]]), tensor([[6.]]))
    """

    facts = TemperatureFacts(
        paper="Wei & Bai 2024 (DTKD)",
        url="https://arxiv.org/abs/2404.12711",
        what="shared out by the largest logits",
        student="2 max s / (max s + max t) · τ",
        teacher="2 max t / (max s + max t) · τ",
        scale="τ_s τ_t",
        needs="scores of classes",
        breaks="largest logits around 0: the published τ is negative or infinite; here none counts as less than 0.1. "
        "At full weight from the start the student may shrink its logits, and with them the factor, instead of "
        "learning: the authors warm up, `method.terms.kd.warmup_epochs=20`",
    )

    default_tau = 4.0
    needs_classes = True

    def __init__(self, base: Temperature | None = None, floor: float = 0.1) -> None:
        super().__init__(base)
        check_number("DynamicTemperature's floor", floor, above=0)
        self.floor = float(floor)

    def soften(self, student_logits: Tensor, teacher_logits: Tensor, step: Step | None = None) -> Softening:
        """The base's τ, shared out."""
        base = self.base.soften(student_logits, teacher_logits, step)
        return dynamic_softening(base, student_logits, teacher_logits, self.floor)
