"""Transformed teacher matching: a temperature for the teacher alone."""

from __future__ import annotations

from torch import Tensor

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods._base import LogitMethod
from ctkd_lightning.methods.kd import kd_loss_by
from ctkd_lightning.temperature._softening import Softening
from ctkd_lightning.temperature.ttm import ttm_softening, wttm_softening


def ttm_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor | Softening,
    *,
    mask: Tensor | None = None,
) -> Tensor:
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
        temperature: τ > 0: a float, a scalar tensor, one per sample (B,) or (B, 1), or one per position, whose values
            are not looked at; or a :class:`~ctkd_lightning.Softening`.
        mask: (...), the positions that count; false or 0 leaves one out, whatever its logits, a floating value weights
            it.

    Returns:
        A scalar.

    Raises:
        UserError: shapes that differ, or a float temperature that is not positive and finite.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[3.0, 0.0, 1.0]])
        >>> ttm_loss(logits / 4, logits, temperature=4.0).abs() < 1e-6
        tensor(True)
    """
    return kd_loss_by(ttm_softening, student_logits, teacher_logits, temperature, mask)


def wttm_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor | Softening,
    *,
    mask: Tensor | None = None,
) -> Tensor:
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
        temperature: τ > 0: a float, a scalar tensor, one per sample (B,) or (B, 1), or one per position, whose values
            are not looked at; or a :class:`~ctkd_lightning.Softening`.
        mask: (...), the positions that count; false or 0 leaves one out, whatever its logits, a floating value weights
            it.

    Returns:
        A scalar.

    Raises:
        UserError: shapes that differ, or a float temperature that is not positive and finite.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[1.0, 1.0]])
        >>> wttm_loss(torch.tensor([[1.0, 0.0]]), logits, 2.0) / ttm_loss(torch.tensor([[1.0, 0.0]]), logits, 2.0)
        tensor(1.4142)
    """
    return kd_loss_by(wttm_softening, student_logits, teacher_logits, temperature, mask)


class TTM(LogitMethod):
    """Transformed teacher matching at the temperature of the module: :func:`ttm_loss` as a term of the loss.

    Args:
        weight: factor of the term. The paper's vary by pair (vgg13 to vgg8: 45, at τ = 10); at that weight the usual
            learning rate of 0.05 is unstable in short trainings and at low temperatures, at this one it is not.
    """

    facts = MethodFacts(
        paper="Zheng, ICLR 2024",
        url="https://arxiv.org/abs/2402.11148",
        weight_from="ours",
        tau="on the teacher; paper: about 10",
    )

    def __init__(self, weight: float = 10.0) -> None:
        super().__init__(weight)

    def loss(self, student: Tensor, teacher: Tensor, step: Step, softening: Softening) -> Tensor:
        """The divergence from the softened teacher."""
        return ttm_loss(student, teacher, softening, mask=step.mask)


class WTTM(LogitMethod):
    """Weighted transformed teacher matching at the temperature of the module: :func:`wttm_loss` as a term.

    The same as :class:`~ctkd_lightning.methods.KD` with :class:`~ctkd_lightning.temperature.WTTMTemperature` around
    the temperature; that temperature goes with other methods too.

    Args:
        weight: factor of the term; the paper's vary by pair (vgg13 to vgg8 beside CRD: 4, at τ = 5).
    """

    facts = MethodFacts(
        paper="Zheng, ICLR 2024",
        url="https://arxiv.org/abs/2402.11148",
        weight_from="authors' code",
        tau="on the teacher; paper: about 5",
    )

    def __init__(self, weight: float = 4.0) -> None:
        super().__init__(weight)

    def loss(self, student: Tensor, teacher: Tensor, step: Step, softening: Softening) -> Tensor:
        """The weighted divergence from the softened teacher."""
        return wttm_loss(student, teacher, softening, mask=step.mask)
