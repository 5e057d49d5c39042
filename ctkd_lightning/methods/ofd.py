"""Overhaul of feature distillation: only what the teacher says matters is asked of the student."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctkd_lightning._across_processes import total
from ctkd_lightning._facts import MethodFacts
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._adapter import Adapter, BatchNorm, conv1x1, width
from ctkd_lightning.methods._base import FeatureMethod, built, preact_pairs
from ctkd_lightning.methods._checks import check_features, pool_to_smaller


def ofd_loss(student: Tensor, teacher: Tensor, margin: Tensor | None = None) -> Tensor:
    r"""Partial squared distance from the teacher's map, its negative values cut off at a margin.

    .. math::
        L = \frac{1}{B} \sum_j \begin{cases} 0 & s_j \le \hat t_j \le 0 \\ (s_j - \hat t_j)^2 & \text{otherwise}
        \end{cases}, \qquad \hat t = \max(t, m)

    with m, for each channel, the mean of the teacher's negative values: in this batch, unless given. Of maps behind a
    rectifier, which have none, it is 0. Computed in float32 or wider.

    Heo et al., *A Comprehensive Overhaul of Feature Distillation*, ICCV 2019, https://arxiv.org/abs/1904.01866.

    Args:
        student: (B, D, H, W), adapted.
        teacher: the same shape, best before the activation.
        margin: m, (D,), not positive; its values are not looked at.

    Returns:
        A scalar: the sum over the map, the mean over the batch.

    Raises:
        UserError: features that are no maps of the same shape, or a margin that is not one per channel.

    Example:
        >>> student = torch.tensor([-3.0, 1.0, 1.0]).view(1, 3, 1, 1)
        >>> ofd_loss(student, torch.tensor([-2.0, -2.0, 3.0]).view(1, 3, 1, 1))
        tensor(13.)
    """
    check_features(student, teacher, ndim=4, same_shape=True)
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    if margin is None:
        margin = _mean_of_negatives(teacher)
    elif margin.shape != (width(teacher),):
        raise UserError(f"margin has shape {tuple(margin.shape)}, expected one per channel ({width(teacher)},)")
    goal = torch.maximum(teacher, margin.view(-1, 1, 1))
    asked = (student > goal) | (goal > 0)
    return ((student - goal).square() * asked).sum() / max(len(student), 1)


def _mean_of_negatives(features: Tensor, *, gather: bool = False) -> Tensor:
    negative = features < 0
    sums = torch.stack([(features * negative).sum(dim=(0, 2, 3)), negative.sum(dim=(0, 2, 3), dtype=features.dtype)])
    values, count = total(sums) if gather else sums
    return values / count.clamp(min=1)


class OFD(FeatureMethod):
    r"""Overhaul distillation: :func:`ofd_loss` of all stages, each weighing twice the one before.

    .. math:: L = \sum_{l=1}^{n} 2^{l-n} L_l

    The adapters are pointwise convolutions with batch normalisation; maps of different sizes are pooled to the smaller
    one. As in the paper both networks' maps are read before their activation.

    Args:
        weight: factor of the term.
        gather: whether margins and the adapters' batch normalisation take, in training, the statistics of all
            processes' batches, as one process with all of them would; else of each process's own.
    """

    facts = MethodFacts(
        paper="Heo, ICCV 2019",
        url="https://arxiv.org/abs/1904.01866",
        weight_from="mdistiller",
        own="adapters",
        cost="one pointwise convolution a stage",
    )

    needs = ("preacts",)

    def __init__(self, weight: float = 0.001, gather: bool = True) -> None:
        super().__init__(weight, gather=gather)
        self.adapters: nn.ModuleList | None = None

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """One adapter a stage."""
        self.adapters = nn.ModuleList(
            _adapter(width(s), width(t), self.gather) for s, t in preact_pairs(student, teacher)
        )

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The stages' partial distances, weighted."""
        adapters = built(self.adapters, self)
        losses: list[Tensor] = []
        for adapter, (s, t) in zip(adapters, preact_pairs(student, teacher), strict=True):
            s, t = pool_to_smaller(s, t)
            margin = _mean_of_negatives(at_least_float32(t), gather=self.gather and self.training)
            losses.append(ofd_loss(adapter(s), t, margin) * 2.0 ** (len(losses) + 1 - len(adapters)))
        return torch.stack(losses).sum()


def _adapter(before: int, after: int, gather: bool) -> Adapter:
    convolution = conv1x1(before, after)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out")  # as the authors draw it
    return Adapter(convolution, BatchNorm(after, gather=gather))
