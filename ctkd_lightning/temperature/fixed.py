"""A constant temperature."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning.errors import check_number
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.temperature._base import Temperature
from ctkd_lightning.temperature._softening import Softening


class FixedTemperature(Temperature):
    """τ as a constant, as in Hinton et al., 2015.

    Args:
        tau: τ > 0; the usual choice on CIFAR-100 is 4.

    Raises:
        UserError: τ that is no positive number.

    Example:
        >>> logits = torch.zeros(2, 10)
        >>> FixedTemperature(4.0)(logits, logits)
        tensor(4.)
    """

    facts = TemperatureFacts(
        paper="Hinton 2015",
        url="https://arxiv.org/abs/1503.02531",
        what="a constant",
    )

    tau: Tensor

    def __init__(self, tau: float = 4.0) -> None:
        super().__init__()
        check_number("temperature's tau", tau, above=0)
        self.register_buffer("tau", torch.tensor(float(tau)), persistent=False)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """τ, a scalar."""
        return self.tau

    def soften(self, student_logits: Tensor, teacher_logits: Tensor, step: Step | None = None) -> Softening:
        """τ on either side, with the factor τ²."""
        return replace(super().soften(student_logits, teacher_logits, step), fixed=True)

    def extra_repr(self) -> str:
        """The constant."""
        return f"tau={float(self.tau)}"
