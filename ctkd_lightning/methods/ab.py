"""Activation boundaries: the student's neurons fire where the teacher's do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning.errors import check_number
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._adapter import Adapter, BatchNorm, conv1x1, width
from ctkd_lightning.methods._base import FeatureMethod, built, preact_pairs
from ctkd_lightning.methods._checks import check_features, pool_to_smaller


def ab_loss(student: Tensor, teacher: Tensor, margin: float = 1.0) -> Tensor:
    r"""Squared hinge of the student's value on the teacher's activation.

    .. math::
        L = \frac{1}{B} \sum_j \max(0, m - y_j s_j)^2, \qquad y_j = +1 \text{ where } t_j > 0, \text{ else } -1

    Heo et al., *Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons*, AAAI 2019,
    https://arxiv.org/abs/1811.03233. Computed in float32 or wider.

    Args:
        student: s, (B, D, H, W), adapted and signed: not behind a rectifier.
        teacher: t, the same shape.
        margin: m, from 0.

    Returns:
        A scalar: the sum over the map, the mean over the batch.

    Raises:
        UserError: features that are no maps of the same shape, or a margin that is no finite number from 0.

    Example:
        >>> ab_loss(torch.tensor([3.0, 0.5, -0.5]).view(1, 3, 1, 1), torch.tensor([1.0, 1.0, 1.0]).view(1, 3, 1, 1))
        tensor(2.5000)
    """
    check_features(student, teacher, ndim=4, same_shape=True)
    check_number("AB's margin", margin, least=0)
    student = at_least_float32(student)
    signed = torch.where(teacher > 0, student, -student)
    return (margin - signed).clamp(min=0).square().sum() / max(len(student), 1)


class AB(FeatureMethod):
    r"""Activation boundaries: :func:`ab_loss` of all stages, each weighing twice the one before.

    .. math:: L = \sum_{l=1}^{n} 2^{l-n} L_l

    The adapters are pointwise convolutions with batch normalisation; maps of different sizes are pooled to the smaller
    one. Both networks' maps are read before their activation. The paper initialises a student by it and then trains on
    the labels alone; here it is a term from the first step to the last.

    Args:
        margin: m, from 0.
        weight: factor of the term.
        gather: whether the adapters' batch normalisation takes, in training, the statistics of all processes' batches,
            as one process with all of them would; else of each process's own, as PyTorch's does.

    Raises:
        UserError: a setting out of range.
    """

    facts = MethodFacts(
        paper="Heo, AAAI 2019",
        url="https://arxiv.org/abs/1811.03233",
        weight_from="ours",
        own="adapters",
        cost="one pointwise convolution a stage",
    )

    needs = ("preacts",)

    def __init__(self, margin: float = 1.0, weight: float = 0.001, gather: bool = True) -> None:
        super().__init__(weight, gather=gather)
        check_number("AB's margin", margin, least=0)
        self.margin = margin
        self.adapters: nn.ModuleList | None = None

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """One adapter a stage."""
        self.adapters = nn.ModuleList(
            Adapter(conv1x1(width(s), width(t)), BatchNorm(width(t), gather=self.gather))
            for s, t in preact_pairs(student, teacher)
        )

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The stages' hinges, weighted."""
        adapters = built(self.adapters, self)
        losses: list[Tensor] = []
        for adapter, (s, t) in zip(adapters, preact_pairs(student, teacher), strict=True):
            s, t = pool_to_smaller(s, t)
            losses.append(ab_loss(adapter(s), t, self.margin) * 2.0 ** (len(losses) + 1 - len(adapters)))
        return torch.stack(losses).sum()
