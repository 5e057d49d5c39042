"""DIST: the correlation of predictions, across classes and across samples, instead of their divergence."""

from __future__ import annotations

from torch import Tensor

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import mean, mean_over_positions
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods._base import LogitMethod
from ctkd_lightning.methods._checks import centred_unit, check_logits, possible_classes
from ctkd_lightning.temperature._softening import Softening


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor | Softening,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    r"""Pearson distance of the softened predictions, for each sample and for each class.

    .. math::
        L = \frac{\beta}{B} \sum_i \left(1 - \rho(q_{i\cdot}, p_{i\cdot})\right)
            + \frac{\gamma}{C} \sum_c \left(1 - \rho(q_{\cdot c}, p_{\cdot c})\right)

    with q and p the softmax of student and teacher at τ, and ρ Pearson's correlation. Computed in float32 or wider.

    Huang et al., *Knowledge Distillation from A Stronger Teacher*, NeurIPS 2022, https://arxiv.org/abs/2205.10536. This
    is the paper's loss; the authors' code multiplies it by τ², and so does :class:`DIST` where τ is fixed.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        temperature: τ > 0: a float, a scalar tensor, or one per sample (B,) or (B, 1), whose values are not looked
            at; or a :class:`~ctkd_lightning.Softening`.
        beta: weight of the samples' part.
        gamma: weight of the classes' part.

    Returns:
        A scalar; a prediction that is the same for all classes, or for all samples, counts as uncorrelated.

    Raises:
        UserError: logits that are not both (B, C), weights that are no finite numbers from 0, or a float temperature
            that is not positive and finite.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]])
        >>> dist_loss(logits.flip(0), logits, temperature=1.0, beta=0.0)
        tensor(2.)
    """
    check_logits(student_logits, teacher_logits, ndim=2)
    _check_settings(beta, gamma)
    softening = Softening.at(temperature, student_logits)
    q = softening.soften_student(student_logits).log_softmax(dim=-1).exp()
    p = softening.soften_teacher(teacher_logits).log_softmax(dim=-1).exp()
    possible = possible_classes(student_logits, teacher_logits)
    samples = 1 - _correlation(q, p, dim=1, among=possible)
    classes = 1 - _correlation(q, p, dim=0)
    return beta * mean(samples) + gamma * mean_over_positions(classes, possible.any(dim=0))


def _check_settings(beta: float, gamma: float) -> None:
    check_number("DIST's beta", beta, least=0)
    check_number("DIST's gamma", gamma, least=0)


def _correlation(a: Tensor, b: Tensor, dim: int, among: Tensor | None = None) -> Tensor:
    # 1e-6: above what rounding makes of a constant
    a, b = centred_unit(a, dim, floor=1e-6, among=among), centred_unit(b, dim, floor=1e-6, among=among)
    return (a * b).sum(dim)


class DIST(LogitMethod):
    """DIST at the temperature of the module: :func:`dist_loss` as a term of the loss.

    Where τ is fixed, the loss is multiplied by τ² as in the authors' code, whose recipe for CIFAR is τ = 4; at the
    ImageNet recipe's τ = 1 there is no difference. A learned τ has no such factor: a correlation does not shrink as τ
    grows, so that the factor alone would drive τ to the end of its range.

    Args:
        beta: weight of the samples' part.
        gamma: weight of the classes' part.
        weight: factor of the term.
        tau_squared: false for the paper's loss at every τ, without the factor.
        gather: whether it relates, in training, the samples of all processes' batches, as one process with all of them
            would; else those of each process's own.

    Raises:
        UserError: a setting out of range.
    """

    facts = MethodFacts(
        paper="Huang, NeurIPS 2022",
        url="https://arxiv.org/abs/2205.10536",
        weight_from="authors' code",
        tau="paper: 1; its code on CIFAR: 4",
    )

    relational = True
    takes_mask = False  # rows and columns of the batch: it is given the rows that the mask keeps

    def __init__(
        self, beta: float = 1.0, gamma: float = 1.0, weight: float = 2.0, tau_squared: bool = True, gather: bool = True
    ) -> None:
        super().__init__(weight, gather=gather)
        _check_settings(beta, gamma)
        self.beta = beta
        self.gamma = gamma
        if not isinstance(tau_squared, bool):
            raise UserError(f"DIST's tau_squared must be true or false, found {tau_squared!r}")
        self.tau_squared = tau_squared

    def loss(self, student: Tensor, teacher: Tensor, step: Step, softening: Softening) -> Tensor:
        """The Pearson distances, times τ² where it is fixed."""
        loss = dist_loss(*self.whole_rows(student, teacher, softening), self.beta, self.gamma)
        return softening.scale * loss if softening.fixed and self.tau_squared else loss
