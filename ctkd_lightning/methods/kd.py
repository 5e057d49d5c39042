"""Knowledge distillation: the Kullback-Leibler divergence of softened outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods.base import Method, NetworkOutput
from ctkd_lightning.methods.check import at_least_float32, check_logits, check_temperature, per_position, soften
from ctkd_lightning.methods.chunked_kd import chunked_divergence, worth_chunking


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor,
    *,
    mask: Tensor | None = None,
    class_dim: int = -1,
) -> Tensor:
    r"""Softened Kullback-Leibler divergence from teacher to student.

    .. math::
        L = \frac{1}{N} \sum_i \tau_i^2 \sum_c p_{ic} (\log p_{ic} - \log q_{ic}), \qquad
        p_i = \mathrm{softmax}(t_i / \tau_i), \quad q_i = \mathrm{softmax}(s_i / \tau_i)

    with student logits s and teacher logits t, and N the samples (or the positions that the mask keeps). Both sides
    stay in log space, so that the gradients with respect to student, teacher and temperature are finite also where a
    probability underflows to zero. Computed in float32 or wider, whatever the logits' type. Large logits, from some
    million on, are softened in pieces (:mod:`ctkd_lightning.methods.chunked_kd`), in a tenth of the memory and less
    time; there is then no second derivative.

    Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015, https://arxiv.org/abs/1503.02531. The factor
    τ² is applied here and nowhere else.

    Args:
        student_logits: (..., C), or with the classes at ``class_dim``.
        teacher_logits: the same shape.
        temperature: τ > 0: a float, a scalar tensor, one per sample (B,) or (B, 1), or one per position. A tensor's
            values are not looked at.
        mask: shape of the logits without the class dimension; false or 0 leaves a position out, whatever its logits.
        class_dim: where the classes are.

    Returns:
        A scalar; 0 where there are no positions, or the mask keeps none.

    Raises:
        UserError: logits or a mask whose shapes do not fit, a ``class_dim`` that the logits do not have, or a float
            temperature that is not positive and finite.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]])
        >>> kd_loss(student, teacher, temperature=2.0)
        tensor(0.3610)
    """
    check_logits(student_logits, teacher_logits)
    dimensions = student_logits.ndim
    if not -dimensions <= class_dim < dimensions:
        raise UserError(
            f"class_dim is {class_dim}, found logits of shape {tuple(student_logits.shape)}: "
            f"pass a dimension from {-dimensions} to {dimensions - 1}"
        )
    student, teacher = (x.movedim(class_dim, -1) for x in (student_logits, teacher_logits))
    tau = check_temperature(temperature, student)
    if mask is None:
        loss = _divergence(student, teacher, tau)
        return loss.mean() if loss.numel() else loss.sum()
    kept = _check_mask(mask, student)
    # Logits left out may be anything, NaN too, which a gradient of zero would carry on: zero times NaN.
    student, teacher = (x.masked_fill(~kept.unsqueeze(-1), 0.0) for x in (student, teacher))
    loss = _divergence(student, teacher, tau)
    return loss.masked_fill(~kept, 0.0).sum() / kept.sum().clamp(min=1)


def _check_mask(mask: Tensor, logits: Tensor) -> Tensor:
    positions = logits.shape[:-1]
    if mask.shape != positions:
        raise UserError(
            f"mask has shape {tuple(mask.shape)}, the logits' positions are {tuple(positions)}: "
            "pass one entry a position"
        )
    return mask.bool()


def _divergence(student: Tensor, teacher: Tensor, tau: Tensor) -> Tensor:
    in_pieces = worth_chunking(student, teacher)
    return divergence_in_pieces(student, teacher, tau) if in_pieces else divergence_at_once(student, teacher, tau)


def divergence_at_once(student: Tensor, teacher: Tensor, tau: Tensor) -> Tensor:
    """τ²·KL at each position."""
    log_p, log_q = soften(at_least_float32(teacher), tau), soften(at_least_float32(student), tau)
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    return divergence * per_position(tau, divergence).square()


def divergence_in_pieces(student: Tensor, teacher: Tensor, tau: Tensor) -> Tensor:
    """:func:`divergence_at_once`, some rows at a time."""
    positions = student.shape[:-1]
    rows = per_position(tau, torch.empty(positions, device="meta")).expand(positions).reshape(-1, 1)
    return chunked_divergence(student.flatten(0, -2), teacher.flatten(0, -2), rows).view(positions)


class KD(Method):
    """Knowledge distillation with the temperature of the module: :func:`kd_loss` as a term of the loss.

    Args:
        weight: factor of the term (the CTKD paper's α, 0.9).
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
        """The softened divergence."""
        return kd_loss(student.logits, teacher.logits, temperature)
