"""Rules that soften by the logits themselves, on top of any temperature."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from ctkd_lightning.features.outputs import Step, at_least_float32
from ctkd_lightning.temperature._base import Temperature
from ctkd_lightning.temperature._softening import Softening, masked_classes
from ctkd_lightning.temperature.fixed import FixedTemperature

_FLOOR = 1e-4  # of the centred logits' length: a spread that half precision does not resolve is no relation


class RuleTemperature(Temperature):
    """A way of softening, with the τ of another temperature, fixed or learned.

    Args:
        base: what gives τ.
    """

    def __init__(self, base: Temperature | None = None) -> None:
        super().__init__()
        self.base = FixedTemperature(self.default_tau) if base is None else base

    default_tau = 2.0

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The student's τ."""
        return self.soften(student_logits, teacher_logits).student

    def soften(self, student_logits: Tensor, teacher_logits: Tensor, step: Step | None = None) -> Softening:
        """The rule on the base's softening."""
        base = self.base.soften(student_logits, teacher_logits, step)
        return self.rule(base, student_logits, teacher_logits)

    @staticmethod
    @abstractmethod
    def rule(base: Softening, student_logits: Tensor, teacher_logits: Tensor) -> Softening:
        """The softening that the rule makes of the base's."""


def spread(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Mean, unbiased variance and deviation over the classes, all (..., 1); the deviation has a floor.

    Masked classes do not count: their logits say nothing of the others. The last is
    :math:`\sqrt{\sigma^2 + \epsilon^2 / (C - 1)}` with :math:`\epsilon = 10^{-4}`, which bounds the gradient of logits
    that hardly differ.
    """
    logits = at_least_float32(logits)
    masked = masked_classes(logits)
    count = masked.logical_not().sum(dim=-1, keepdim=True)
    mean = logits.masked_fill(masked, 0.0).sum(dim=-1, keepdim=True) / count.clamp(min=1)
    squares = (logits - mean).masked_fill(masked, 0.0).square().sum(dim=-1, keepdim=True)
    freedom = (count - 1).clamp(min=1)
    return mean, squares / freedom, ((squares + _FLOOR**2) / freedom).sqrt()
