"""Logit standardisation: the student learns the teacher's relations of logits, not their scale."""

from __future__ import annotations

from torch import Tensor

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods._base import LogitMethod
from ctkd_lightning.methods.kd import kd_loss_by
from ctkd_lightning.temperature._softening import Softening
from ctkd_lightning.temperature.lskd import lskd_softening


def lskd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor | Softening,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Softened divergence of standardised logits: :func:`kd_loss` of z(s) and z(t).

    .. math::
        z(x)_c = \sqrt{C - 1} \, \frac{x_c - \bar x}{\sqrt{\sum_k (x_k - \bar x)^2 + \epsilon^2}}, \qquad
        \epsilon = 10^{-4}

    with the mean over the classes: the logits over their (unbiased) standard deviation, but for ε, which bounds the
    gradient of logits that hardly differ. The paper has none, the authors' code adds 1e-7 to σ. Computed in float32
    or wider.

    Sun et al., *Logit Standardization in Knowledge Distillation*, CVPR 2024, https://arxiv.org/abs/2403.01427.

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
        >>> lskd_loss(10 * teacher + 7, teacher, temperature=2.0).abs() < 1e-6
        tensor(True)
    """
    return kd_loss_by(lskd_softening, student_logits, teacher_logits, temperature, mask)


class LSKD(LogitMethod):
    """Logit standardisation with the temperature of the module: :func:`lskd_loss` as a term of the loss.

    The same as :class:`~ctkd_lightning.methods.KD` with :class:`~ctkd_lightning.temperature.LSKDTemperature` around
    the temperature; that temperature goes with other methods too.

    Args:
        weight: factor of the term; the paper's vary by pair.
    """

    facts = MethodFacts(
        paper="Sun, CVPR 2024",
        url="https://arxiv.org/abs/2403.01427",
        weight_from="authors' code",
        tau="paper: 2, in standard deviations",
    )

    def __init__(self, weight: float = 9.0) -> None:
        super().__init__(weight)

    def loss(self, student: Tensor, teacher: Tensor, step: Step, softening: Softening) -> Tensor:
        """The divergence of the standardised logits."""
        return lskd_loss(student, teacher, softening, mask=step.mask)
