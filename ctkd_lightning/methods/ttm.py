"""Transformed teacher matching: a temperature for the teacher alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ctkd_lightning.methods.base import Method, NetworkOutput
from ctkd_lightning.methods.check import at_least_float32, check_logits, check_temperature, per_position, soften


def ttm_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> Tensor:
    r"""Divergence of the student's plain prediction from the teacher's softened one.

    .. math::
        L = \frac{1}{N} \sum_i \mathrm{KL}(p_i \| q_i), \qquad p_i = \mathrm{softmax}(t_i / \tau_i), \quad
        q_i = \mathrm{softmax}(s_i)

    There is no factor τ²: the student's gradient does not shrink with τ. Computed in float32 or wider.

    Zheng and Yang, *Knowledge Distillation Based on Transformed Teacher Matching*, ICLR 2024,
    https://arxiv.org/abs/2402.11148. The paper's γ is 1 / τ.

    Args:
        student_logits: (..., C).
        teacher_logits: the same shape.
        temperature: τ > 0: a float, a scalar tensor, one per sample (B,) or (B, 1), or one per position. A tensor's
            values are not looked at.

    Returns:
        A scalar.

    Raises:
        UserError: shapes that differ, or a float temperature that is not positive and finite.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0, 1.0]])
        >>> ttm_loss(logits / 4, logits, temperature=4.0).abs() < 1e-6
        tensor(True)
    """
    divergence, _ = _transformed_divergence(student_logits, teacher_logits, temperature)
    return divergence.mean()


def wttm_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> Tensor:
    r""":func:`ttm_loss` with a weight for each sample: more where the teacher is less sure.

    .. math::
        L = \frac{1}{N} \sum_i u_i \, \mathrm{KL}(p_i \| q_i), \qquad
        u_i = \sum_c \mathrm{softmax}(t_i)_c^{1 / \tau_i}

    The weight lies between 1 (a sure teacher) and :math:`C^{1 - 1 / \tau}`. Computed in float32 or wider.

    Zheng and Yang, *Knowledge Distillation Based on Transformed Teacher Matching*, ICLR 2024,
    https://arxiv.org/abs/2402.11148. The paper's γ is 1 / τ.

    Args:
        student_logits: (..., C).
        teacher_logits: the same shape.
        temperature: τ > 0: a float, a scalar tensor, one per sample (B,) or (B, 1), or one per position. A tensor's
            values are not looked at.

    Returns:
        A scalar.

    Raises:
        UserError: shapes that differ, or a float temperature that is not positive and finite.

    Example:
        >>> logits = torch.tensor([[1.0, 1.0]])
        >>> wttm_loss(torch.tensor([[1.0, 0.0]]), logits, 2.0) / ttm_loss(torch.tensor([[1.0, 0.0]]), logits, 2.0)
        tensor(1.4142)
    """
    divergence, log_weight = _transformed_divergence(student_logits, teacher_logits, temperature)
    return (log_weight.exp() * divergence).mean()


def _transformed_divergence(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor
) -> tuple[Tensor, Tensor]:
    check_logits(student_logits, teacher_logits)
    student, teacher = at_least_float32(student_logits), at_least_float32(teacher_logits)
    tau = check_temperature(temperature, student)
    log_p, log_q = soften(teacher, tau), torch.log_softmax(student, dim=-1)
    log_prediction = torch.log_softmax(teacher, dim=-1)
    log_weight = (log_prediction / per_position(tau, log_prediction)).logsumexp(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1), log_weight


class TTM(Method):
    """Transformed teacher matching at the temperature of the module: :func:`ttm_loss` as a term of the loss.

    Args:
        weight: factor of the term. The paper's vary by pair (vgg13 to vgg8: 45, at τ = 10); at that weight the usual
            learning rate of 0.05 is unstable in short trainings and at low temperatures, at this one it is not.
    """

    uses_temperature = True

    def __init__(self, weight: float = 10.0) -> None:
        super().__init__(weight)

    def forward(
        self,
        student: NetworkOutput,
        teacher: NetworkOutput,
        target: Tensor,
        temperature: Tensor,
        index: Tensor | None = None,
    ) -> Tensor:
        """The divergence from the softened teacher."""
        return ttm_loss(student.logits, teacher.logits, temperature)


class WTTM(Method):
    """Weighted transformed teacher matching at the temperature of the module: :func:`wttm_loss` as a term.

    Args:
        weight: factor of the term; the paper's vary by pair (vgg13 to vgg8 beside CRD: 4, at τ = 5).
    """

    uses_temperature = True

    def __init__(self, weight: float = 4.0) -> None:
        super().__init__(weight)

    def forward(
        self,
        student: NetworkOutput,
        teacher: NetworkOutput,
        target: Tensor,
        temperature: Tensor,
        index: Tensor | None = None,
    ) -> Tensor:
        """The weighted divergence from the softened teacher."""
        return wttm_loss(student.logits, teacher.logits, temperature)
