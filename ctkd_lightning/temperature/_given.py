"""One τ for all samples that nothing learns: a constant, or one that something else moves."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ctkd_lightning.features.outputs import Step
from ctkd_lightning.temperature._base import Temperature
from ctkd_lightning.temperature._softening import Softening


class GivenTemperature(Temperature):
    """A scalar τ in a buffer, no part of the checkpoint.

    Args:
        tau: τ until it is moved.
    """

    tau: Tensor

    def __init__(self, tau: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("tau", torch.tensor(tau), persistent=False)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """τ, a scalar."""
        return self.tau

    def soften(self, student_logits: Tensor, teacher_logits: Tensor, step: Step | None = None) -> Softening:
        """τ on either side, with the factor τ²."""
        return replace(super().soften(student_logits, teacher_logits, step), fixed=True)
