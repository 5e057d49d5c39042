"""Decoupled knowledge distillation: the target class and the others, each with its own weight."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import check_mask, masked, mean_over_positions
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods._base import LogitMethod
from ctkd_lightning.methods._checks import check_logits, check_target, need_target
from ctkd_lightning.temperature._softening import Softening


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float | Tensor | Softening,
    alpha: float = 1.0,
    beta: float = 8.0,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Softened divergence, split into target class against the rest, and the rest among themselves.

    .. math::
        L = \frac{1}{N} \sum_i \tau_i^2 \left( \alpha \, \mathrm{KL}(b_i^t \| b_i^s)
            + \beta \, \mathrm{KL}(\hat p_i^t \| \hat p_i^s) \right)

    with :math:`b` the binary distribution (target class, all others) and :math:`\hat p` the softmax over the other
    classes alone, both of logits / τ. With weights :math:`\alpha = 1, \beta = 1 - p^t_\mathrm{target}` it is
    :func:`kd_loss`.

    Zhao et al., *Decoupled Knowledge Distillation*, CVPR 2022, https://arxiv.org/abs/2203.08679. The authors' code
    masks the target class by −1000, which makes exact zeros of which the gradient with respect to a learned
    temperature is NaN. Here the target column is left out and everything stays in log space. Computed in float32 or
    wider, whatever the logits' type.

    Args:
        student_logits: (..., C).
        teacher_logits: the same shape.
        target: (...) class indices, of which the values are not looked at: that would wait for the device.
        temperature: τ > 0: a float, a scalar tensor, one per sample (B,) or (B, 1), or one per position, whose values
            are not looked at; or a :class:`~ctkd_lightning.Softening`.
        alpha: weight of the target class's part.
        beta: weight of the other classes' part.
        mask: (...), the positions that count; false or 0 leaves one out, whatever its logits, a floating value weights
            it.

    Returns:
        A scalar.

    Raises:
        UserError: shapes that differ, targets of another type than whole numbers, fewer than two classes, weights that
            are no finite numbers from 0, or a float temperature that is not positive and finite.

    Example:
        >>> student, teacher = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[3.0, 0.0, 1.0]])
        >>> dkd_loss(student, teacher, torch.tensor([0]), temperature=2.0)
        tensor(1.2212)
    """
    check_logits(student_logits, teacher_logits)
    check_target(target, student_logits)
    _check_settings(alpha, beta)
    if student_logits.shape[-1] < 2:
        raise UserError("DKD needs two classes or more, found logits of one: use another method")
    check_mask(mask, student_logits)
    student, teacher = masked(student_logits, mask), masked(teacher_logits, mask)
    if mask is not None:
        target = target.masked_fill(mask == 0, 0)
    softening = Softening.at(temperature, student)
    log_target_s, log_rest_s, log_others_s = _decouple(softening.soften_student(student), target)
    log_target_t, log_rest_t, log_others_t = _decouple(softening.soften_teacher(teacher), target)
    binary = _divergence(log_target_t, log_target_s) + _divergence(log_rest_t, log_rest_s)
    others = _divergence(log_others_t, log_others_s).sum(dim=-1)
    return mean_over_positions((alpha * binary + beta * others) * softening.scale, mask)


def _check_settings(alpha: float, beta: float) -> None:
    check_number("DKD's alpha", alpha, least=0)
    check_number("DKD's beta", beta, least=0)


def _decouple(scaled: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of the target class (...), of the rest together (...), and within the rest (..., C − 1)."""
    column = torch.arange(scaled.shape[-1] - 1, device=scaled.device)
    target = target.long().unsqueeze(-1)
    others = scaled.gather(-1, column + (column >= target))  # every column but the target's
    rest = others.logsumexp(dim=-1, keepdim=True)
    margin = (scaled.gather(-1, target) - rest).squeeze(-1)
    return F.logsigmoid(margin), F.logsigmoid(-margin), others - rest


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    return log_p.exp() * (log_p - log_q)


class DKD(LogitMethod):
    """Decoupled distillation with the temperature of the module: :func:`dkd_loss` as a term of the loss.

    Args:
        alpha: weight of the target class's part.
        beta: weight of the other classes' part: 2, 6 or 8 in the paper, by the pair of networks.
        weight: factor of the term.
        warmup_epochs: epochs over which the factor rises linearly, 20 in the paper.

    Raises:
        UserError: a setting out of range.
    """

    facts = MethodFacts(
        paper="Zhao, CVPR 2022",
        url="https://arxiv.org/abs/2203.08679",
        weight_from="authors' code",
    )

    needs_target = True

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, weight: float = 1.0, warmup_epochs: int = 20) -> None:
        super().__init__(weight, warmup_epochs)
        _check_settings(alpha, beta)
        self.alpha = alpha
        self.beta = beta

    def loss(self, student: Tensor, teacher: Tensor, step: Step, softening: Softening) -> Tensor:
        """The decoupled divergence."""
        target = need_target(step.target, "DKD")
        return dkd_loss(student, teacher, target, softening, self.alpha, self.beta, mask=step.mask)
