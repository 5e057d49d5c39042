"""Logit standardisation: the student learns the teacher's relations of logits, not their scale."""

from __future__ import annotations

import math

from torch import Tensor

from ctkd_lightning.methods.base import Method, NetworkOutput
from ctkd_lightning.methods.check import at_least_float32, centred_unit, check_logits
from ctkd_lightning.methods.kd import kd_loss


def lskd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> Tensor:
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
            one per position. A tensor's values are not looked at.

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
    check_logits(student_logits, teacher_logits)
    return kd_loss(standardize(student_logits), standardize(teacher_logits), temperature)


def standardize(logits: Tensor) -> Tensor:
    """Logits with mean 0 and standard deviation 1 over the classes; all zero where the logits are equal.

    A spread of about 1e-4 or less, which half precision does not resolve, is no relation worth an endless gradient:
    such logits come out smaller (:func:`~ctkd_lightning.methods.check.centred_unit`).
    """
    return centred_unit(at_least_float32(logits), dim=-1, floor=1e-4) * math.sqrt(max(logits.shape[-1] - 1, 0))


class LSKD(Method):
    """Logit standardisation with the temperature of the module: :func:`lskd_loss` as a term of the loss.

    Args:
        weight: factor of the term; the paper's vary by pair.
    """

    uses_temperature = True

    def __init__(self, weight: float = 9.0) -> None:
        super().__init__(weight)

    def forward(
        self,
        student: NetworkOutput,
        teacher: NetworkOutput,
        target: Tensor,
        temperature: Tensor,
        index: Tensor | None = None,
    ) -> Tensor:
        """The divergence of the standardised logits."""
        return lskd_loss(student.logits, teacher.logits, temperature)
