"""NormKD: each sample's temperature follows the spread of its logits."""

from __future__ import annotations

from torch import Tensor

from ctkd_lightning.methods.base import Method, NetworkOutput
from ctkd_lightning.methods.check import at_least_float32, check_logits, check_temperature, per_position, soften
from ctkd_lightning.methods.lskd import standardize


def normkd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> Tensor:
    r"""Softened divergence at temperatures proportional to the logits' standard deviations.

    .. math::
        L = \frac{1}{N} \sum_i (\tau_i \sigma(t_i))^2 \, \mathrm{KL}(p_i \| q_i), \qquad
        p_i = \mathrm{softmax}\!\left(\frac{t_i}{\tau_i \sigma(t_i)}\right), \quad
        q_i = \mathrm{softmax}\!\left(\frac{s_i}{\tau_i \sigma(s_i)}\right)

    with σ the (unbiased) standard deviation over the classes. In the softmax, though not in the factor before the
    divergence, it is :math:`\sqrt{\sigma^2 + \epsilon^2 / (C - 1)}` with :math:`\epsilon = 10^{-4}`, which bounds the
    gradient of logits that hardly differ. Computed in float32 or wider.

    Chi et al., *NormKD: Normalized Logits for Knowledge Distillation*, 2023, https://arxiv.org/abs/2308.00520.

    Args:
        student_logits: (..., C).
        teacher_logits: the same shape.
        temperature: τ > 0, in standard deviations: a float, a scalar tensor, one per sample (B,) or (B, 1), or
            one per position. A tensor's values are not looked at.

    Returns:
        A scalar.

    Raises:
        UserError: shapes that differ, or a float temperature that is not positive and finite.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[3.0, 0.0, 1.0]])
        >>> normkd_loss(10 * teacher + 7, teacher, temperature=2.0).abs() < 1e-6
        tensor(True)
    """
    check_logits(student_logits, teacher_logits)
    student, teacher = at_least_float32(student_logits), at_least_float32(teacher_logits)
    tau = check_temperature(temperature, student)
    # a softmax does not see a shift: logits over their deviation are standardised logits to it
    log_p, log_q = soften(standardize(teacher), tau), soften(standardize(student), tau)
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    return (divergence * (per_position(tau, divergence).square() * _variance(teacher))).mean()


def _variance(logits: Tensor) -> Tensor:
    centred = logits - logits.mean(dim=-1, keepdim=True)
    return centred.square().sum(dim=-1) / max(logits.shape[-1] - 1, 1)


class NormKD(Method):
    """NormKD with the temperature of the module in the place of the paper's 2: :func:`normkd_loss` as a term.

    Args:
        weight: factor of the term.
    """

    uses_temperature = True

    def __init__(self, weight: float = 0.9) -> None:
        super().__init__(weight)

    def forward(
        self,
        student: NetworkOutput,
        teacher: NetworkOutput,
        target: Tensor,
        temperature: Tensor,
        index: Tensor | None = None,
    ) -> Tensor:
        """The divergence at each sample's temperature."""
        return normkd_loss(student.logits, teacher.logits, temperature)
