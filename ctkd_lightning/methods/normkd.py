"""NormKD: each sample's temperature follows the spread of its logits."""

from __future__ import annotations

from torch import Tensor

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods._base import LogitMethod
from ctkd_lightning.methods.kd import kd_loss_by
from ctkd_lightning.temperature._softening import Softening
from ctkd_lightning.temperature.normkd import normkd_softening


def normkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor | Softening,
    *,
    mask: Tensor | None = None,
) -> Tensor:
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
            one per position, whose values are not looked at; or a :class:`~ctkd_lightning.Softening`.
        mask: (...), the positions that count; false or 0 leaves one out, whatever its logits, a floating value weights
            it.

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
    return kd_loss_by(normkd_softening, student_logits, teacher_logits, temperature, mask)


class NormKD(LogitMethod):
    """NormKD with the temperature of the module in the place of the paper's 2: :func:`normkd_loss` as a term.

    The same as :class:`~ctkd_lightning.methods.KD` with :class:`~ctkd_lightning.temperature.NormKDTemperature` around
    the temperature; that temperature goes with other methods too.

    Args:
        weight: factor of the term.
    """

    facts = MethodFacts(
        paper="Chi 2023",
        url="https://arxiv.org/abs/2308.00520",
        weight_from="authors' code",
        tau="paper: 2, in standard deviations",
    )

    def __init__(self, weight: float = 0.9) -> None:
        super().__init__(weight)

    def loss(self, student: Tensor, teacher: Tensor, step: Step, softening: Softening) -> Tensor:
        """The divergence at each sample's temperature."""
        return normkd_loss(student, teacher, softening, mask=step.mask)
