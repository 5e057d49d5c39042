"""Attention transfer: the same places matter to both networks."""

from __future__ import annotations

import torch
from torch import Tensor

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import mean
from ctkd_lightning.errors import check_number
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._base import FeatureMethod, stage_pairs
from ctkd_lightning.methods._checks import check_features, pool_to_smaller, unit


def at_loss(student: Tensor, teacher: Tensor, p: float = 2.0) -> Tensor:
    r"""Mean squared distance of the maps' normalised spatial attention.

    .. math::
        L = \frac{1}{B H W} \sum_i \lVert Q(s_i) - Q(t_i) \rVert_2^2, \qquad
        Q(f) = \frac{a(f)}{\lVert a(f) \rVert_2}, \quad a(f) = \frac{1}{D} \sum_d |f_d|^p

    Zagoruyko and Komodakis, *Paying More Attention to Attention*, ICLR 2017, https://arxiv.org/abs/1612.03928. The
    paper's sums are means here, as in its code. Computed in float32 or wider.

    Args:
        student: (B, Ds, Hs, Ws).
        teacher: (B, Dt, Ht, Wt); maps of different sizes are pooled to the smaller one.
        p: power of the activations.

    Returns:
        A scalar.

    Raises:
        UserError: features that are no maps of the same batch, or a power that is no finite number above 0.

    Example:
        >>> student = torch.tensor([[[[1.0, 0.0]]]])
        >>> at_loss(student, student.flip(-1))
        tensor(1.)
    """
    check_features(student, teacher, ndim=4)
    check_number("AT's p", p, above=0)
    s, t = pool_to_smaller(at_least_float32(student), at_least_float32(teacher))
    return mean((_attention(s, p) - _attention(t, p)).square())


def _attention(features: Tensor, p: float) -> Tensor:
    # an even power needs no absolute value, and its gradient no sign
    powers = features.square() if p == 2 else features.abs().pow(p)
    return unit(powers.mean(dim=1).flatten(1))


class AT(FeatureMethod):
    """Attention transfer: :func:`at_loss`, summed over the stages.

    Args:
        p: power of the activations.
        weight: factor of the term.

    Raises:
        UserError: a setting out of range.
    """

    facts = MethodFacts(
        paper="Zagoruyko, ICLR 2017",
        url="https://arxiv.org/abs/1612.03928",
        weight_from="RepDistiller",
    )

    needs = ("stages",)

    def __init__(self, p: float = 2.0, weight: float = 1000.0) -> None:
        super().__init__(weight)
        check_number("AT's p", p, above=0)
        self.p = p

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The stages' distances of attention, summed."""
        return torch.stack([at_loss(s, t, self.p) for s, t in stage_pairs(student, teacher)]).sum()
