"""A constant temperature."""

from __future__ import annotations

import torch
from torch import Tensor

from ctkd_lightning.errors import check_number
from ctkd_lightning.temperature._base import Temperature


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

    tau: Tensor

    def __init__(self, tau: float = 4.0) -> None:
        super().__init__()
        check_number("temperature's tau", tau, above=0)
        self.register_buffer("tau", torch.tensor(float(tau)), persistent=False)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """τ, a scalar."""
        return self.tau

    def extra_repr(self) -> str:
        """The constant."""
        return f"tau={float(self.tau)}"
