"""Variational information distillation: features from which the teacher's can be predicted."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import mean as mean_of
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._adapter import Adapter, conv1x1, width
from ctkd_lightning.methods._base import FeatureMethod, built, stage_pairs
from ctkd_lightning.methods._checks import check_features, pool_to_smaller


def vid_loss(mean: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    r"""Negative log-likelihood of the teacher's map under a Gaussian predicted from the student's, up to a constant.

    .. math::
        L = \frac{1}{2 B D H W} \sum_{bdhw} \frac{(t_{bdhw} - \mu_{bdhw})^2}{\sigma_d^2} + \log \sigma_d^2

    Minimising it raises a lower bound of the mutual information between the two. Computed in float32 or wider.

    Ahn et al., *Variational Information Distillation for Knowledge Transfer*, CVPR 2019,
    https://arxiv.org/abs/1904.05835.

    Args:
        mean: μ, (B, D, H, W), what a regressor makes of the student's map.
        teacher: t, the same shape.
        variance: σ², (D,), positive; its values are not looked at.

    Returns:
        A scalar; it may be negative.

    Raises:
        UserError: maps of different shapes, or a variance that is not one per channel.

    Example:
        >>> vid_loss(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 2.0), torch.ones(1))
        tensor(2.)
    """
    check_features(mean, teacher, ndim=4, same_shape=True)
    if variance.shape != (width(teacher),):
        raise UserError(f"variance has shape {tuple(variance.shape)}, expected one per channel ({width(teacher)},)")
    mean, teacher, variance = (at_least_float32(x) for x in (mean, teacher, variance))
    variance = variance.view(-1, 1, 1)
    return 0.5 * mean_of((teacher - mean).square() / variance + variance.log())


class GaussianRegressor(nn.Module):
    r"""A Gaussian over a teacher's map, its mean read from the student's map, its variance one number per channel.

    The mean is three pointwise convolutions with rectifiers between; :math:`\sigma^2 = \mathrm{softplus}(a) + \epsilon`
    with a the learned value.

    Args:
        student_width: channels of the student's map.
        teacher_width: channels of the teacher's.
        init_variance: σ² at the start.
        eps: the least variance.
    """

    def __init__(self, student_width: int, teacher_width: int, init_variance: float = 5.0, eps: float = 1e-5) -> None:
        super().__init__()
        excess = init_variance - eps
        raw = excess + math.log(-math.expm1(-excess))  # softplus's inverse, without the overflow of log(expm1(x))
        self.raw_variance = nn.Parameter(torch.full((teacher_width,), raw))
        self.mean = Adapter(
            conv1x1(student_width, teacher_width),
            nn.ReLU(),
            conv1x1(teacher_width, teacher_width),
            nn.ReLU(),
            conv1x1(teacher_width, teacher_width),
        )
        self.eps = eps

    def forward(self, student: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, D, H, W) and variance (D,)."""
        return self.mean(student), F.softplus(at_least_float32(self.raw_variance)) + self.eps


class VID(FeatureMethod):
    """Variational information distillation: :func:`vid_loss`, summed over the stages.

    Maps of different sizes are pooled to the smaller one.

    Args:
        init_variance: predicted variance at the start.
        eps: the least variance.
        weight: factor of the term.

    Raises:
        UserError: a setting out of range: ``init_variance`` must be above ``eps``, and that above 0.
    """

    facts = MethodFacts(
        paper="Ahn, CVPR 2019",
        url="https://arxiv.org/abs/1904.05835",
        weight_from="CTKD's code",
        own="regressors, variances",
        cost="three pointwise convolutions a stage",
    )

    needs = ("stages",)

    def __init__(self, init_variance: float = 5.0, eps: float = 1e-5, weight: float = 1.0) -> None:
        super().__init__(weight)
        check_number("VID's eps", eps, above=0)
        check_number("VID's init_variance", init_variance, above=eps)
        self.init_variance = init_variance
        self.eps = eps
        self.regressors: nn.ModuleList | None = None

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """One regressor a stage."""
        self.regressors = nn.ModuleList(
            GaussianRegressor(width(s), width(t), self.init_variance, self.eps)
            for s, t in stage_pairs(student, teacher)
        )

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The stages' negative log-likelihoods, summed."""
        losses = []
        pairs = stage_pairs(student, teacher)
        for regressor, (s, t) in zip(built(self.regressors, self), pairs, strict=True):
            s, t = pool_to_smaller(s, t)
            mean, variance = regressor(s)
            losses.append(vid_loss(mean, t, variance))
        return torch.stack(losses).sum()
