"""ATS's temperatures by class and target."""

from __future__ import annotations

import torch
from torch import Tensor

from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.temperature._base import Temperature
from ctkd_lightning.temperature._softening import Softening


class AsymmetricTemperature(Temperature):
    r"""Asymmetric temperature scaling: the teacher's target class has another τ than its other classes.

    .. math:: p \propto \exp(t_c / \tau_c), \qquad \tau_y = \tau_1, \qquad \tau_{c \ne y} = \tau_2

    with target y, and :math:`\tau_s` for the student, whose square is the factor of the loss. A large τ₁ takes the
    sureness of the right class down, a smaller τ₂ keeps the wrong ones apart. Li et al., *Asymmetric Temperature
    Scaling Makes Larger Networks Teach Well Again*, NeurIPS 2022, https://arxiv.org/abs/2210.04427.

    The authors' code has a cross-entropy with p, which is the divergence and :math:`\tau_s^2` times p's entropy, a
    constant of the student: the gradient is the same. Every step needs the target. Classes divided by different τ do
    not stay as they are when the teacher's logits are shifted.

    Args:
        tau_target: τ₁.
        tau_other: τ₂.
        tau_student: τ_s.

    Raises:
        UserError: τ that are no positive numbers; in use, a batch without target.

    Example:
        >>> step = Step(target=torch.tensor([0]))
        >>> AsymmetricTemperature().soften(torch.zeros(1, 3), torch.zeros(1, 3), step).teacher
        tensor([[4., 2., 2.]])
    """

    facts = TemperatureFacts(
        paper="Li, NeurIPS 2022 (ATS)",
        url="https://arxiv.org/abs/2210.04427",
        what="three constants, by side, class and target",
        student="τ_s",
        teacher="τ₁ of the target's class, τ₂ of the others",
        scale="τ_s²",
        needs="the target",
        breaks="targets that are no class index: refused",
    )

    needs_target = True
    needs_classes = True
    tau: Tensor

    def __init__(self, tau_target: float = 4.0, tau_other: float = 2.0, tau_student: float = 1.0) -> None:
        super().__init__()
        for name, value in (("tau_target", tau_target), ("tau_other", tau_other), ("tau_student", tau_student)):
            check_number(f"AsymmetricTemperature's {name}", value, above=0)
        self.tau_target, self.tau_other = float(tau_target), float(tau_other)
        self.register_buffer("tau", torch.tensor(float(tau_student)), persistent=False)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The student's τ, a scalar."""
        return self.tau

    def soften(self, student_logits: Tensor, teacher_logits: Tensor, step: Step | None = None) -> Softening:
        """The student's τ, and the teacher's by class and target, (..., C)."""
        target = None if step is None else step.target
        if target is None or target.shape != teacher_logits.shape[:-1]:
            found = "none" if target is None else f"one of shape {tuple(target.shape)}"
            raise UserError(
                f"AsymmetricTemperature needs a class index for each of the positions "
                f"{tuple(teacher_logits.shape[:-1])}, found {found}: pass target=, or take another temperature"
            )
        student = self(student_logits, teacher_logits)
        classes = torch.arange(teacher_logits.shape[-1], device=target.device)
        is_target = classes == target.unsqueeze(-1)  # nowhere, of a target that is to be ignored
        teacher = torch.where(is_target, student.new_tensor(self.tau_target), student.new_tensor(self.tau_other))
        return Softening(student, teacher, student.square())

    def extra_repr(self) -> str:
        """The three constants."""
        return f"tau_target={self.tau_target}, tau_other={self.tau_other}, tau_student={float(self.tau)}"
