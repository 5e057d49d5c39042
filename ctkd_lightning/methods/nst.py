"""Neuron selectivity transfer: both networks' neurons react to the same regions."""

from __future__ import annotations

import torch
from torch import Tensor

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import mean
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._base import FeatureMethod, stage_pairs
from ctkd_lightning.methods._checks import check_features, no_autocast, pool_to_smaller, unit


def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared maximum mean discrepancy of the channels' activation patterns.

    .. math::
        L = \frac{1}{B} \sum_i \frac{1}{D_s^2} \sum_{cd} k(s_{ic}, s_{id}) + \frac{1}{D_t^2} \sum_{cd} k(t_{ic}, t_{id})
            - \frac{2}{D_s D_t} \sum_{cd} k(s_{ic}, t_{id}), \qquad k(a, b) = (a \cdot b)^2

    with each channel's pattern over the H W positions scaled to length 1. Computed in float32 or wider.

    Huang and Wang, *Like What You Like: Knowledge Distill via Neuron Selectivity Transfer*, 2017,
    https://arxiv.org/abs/1707.01219. The polynomial kernel is the paper's best.

    Args:
        student: (B, Ds, Hs, Ws).
        teacher: (B, Dt, Ht, Wt); maps of different sizes are pooled to the smaller one.

    Returns:
        A scalar.

    Raises:
        UserError: features that are no maps of the same batch.

    Example:
        >>> student = torch.tensor([[[[1.0, 0.0]]]])
        >>> nst_loss(student, student.flip(-1))
        tensor(2.)
    """
    check_features(student, teacher, ndim=4)
    s, t = pool_to_smaller(at_least_float32(student), at_least_float32(teacher))
    s, t = unit(s.flatten(2), dim=2), unit(t.flatten(2), dim=2)
    with no_autocast(s):
        if s.shape[2] < s.shape[1] + t.shape[1]:
            # the same number from matrices over positions, the smaller ones in the late stages
            return mean((_position_gram(s) - _position_gram(t)).square().sum(dim=(1, 2)))
        return _kernel(s, s) + _kernel(t, t) - 2 * _kernel(s, t)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return mean((a @ b.transpose(1, 2)).square())


def _position_gram(x: Tensor) -> Tensor:
    return x.transpose(1, 2) @ x / x.shape[1]


class NST(FeatureMethod):
    """Neuron selectivity transfer: :func:`nst_loss`, summed over the stages.

    Args:
        weight: factor of the term.
    """

    facts = MethodFacts(
        paper="Huang 2017",
        url="https://arxiv.org/abs/1707.01219",
        weight_from="RepDistiller",
        cost="per sample and stage, the smaller of channels² and positions²",
    )

    needs = ("stages",)

    def __init__(self, weight: float = 50.0) -> None:
        super().__init__(weight)

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The stages' discrepancies, summed."""
        return torch.stack([nst_loss(s, t) for s, t in stage_pairs(student, teacher)]).sum()
