"""Flow of the solution procedure: how features go from one stage to the next."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import reduction
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._base import FeatureMethod, stage_pairs
from ctkd_lightning.methods._checks import check_features, no_autocast, pool_to_smaller


def fsp_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    r"""Mean squared distance of the flow matrices between neighbouring stages, summed over these.

    .. math:: L = \sum_l \mathrm{mse}(G^s_l, G^t_l), \qquad G_l = \frac{1}{H W} F_l F_{l+1}^\top

    with F the (D, H W) maps, the larger of the two pooled to the smaller one. Computed in float32 or wider.

    Yim et al., *A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning*,
    CVPR 2017, https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html.

    Args:
        student: two maps (B, D, H, W) or more, from the image to the classifier.
        teacher: maps with the same numbers of channels.

    Returns:
        A scalar.

    Raises:
        UserError: fewer than two maps, different batches, or different widths.

    Example:
        >>> maps = [torch.ones(1, 2, 8, 8), torch.ones(1, 3, 4, 4)]
        >>> fsp_loss([2 * x for x in maps], maps)
        tensor(9.)
    """
    if len(student) != len(teacher) or len(student) < 2:
        raise UserError(
            f"fsp_loss found {len(student)} student maps and {len(teacher)} teacher maps: pass two or more of each"
        )
    for s, t in zip(student, teacher, strict=True):
        check_features(s, t, ndim=4)
    flows = [[_flow(a, b) for a, b in itertools.pairwise(maps)] for maps in (student, teacher)]
    for s, t in zip(*flows, strict=True):
        if s.shape != t.shape:
            raise UserError(
                f"FSP compares networks of the same widths; found flow matrices {tuple(s.shape[1:])} of the student "
                f"and {tuple(t.shape[1:])} of the teacher: choose another pair or another method"
            )
    return torch.stack([F.mse_loss(s, t, reduction=reduction(s)) for s, t in zip(*flows, strict=True)]).sum()


def _flow(before: Tensor, after: Tensor) -> Tensor:
    a, b = pool_to_smaller(at_least_float32(before), at_least_float32(after))
    with no_autocast(a):
        return a.flatten(2) @ b.flatten(2).transpose(1, 2) / (a.shape[2] * a.shape[3])


class FSP(FeatureMethod):
    """Flow between the stages: :func:`fsp_loss` as a term of the loss, for networks of the same widths.

    The paper initialises a student by it and then trains on the labels alone; here it is a term from the first step to
    the last.

    Args:
        weight: factor of the term.
    """

    facts = MethodFacts(
        paper="Yim, CVPR 2017",
        url="https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html",
        weight_from="RepDistiller",
        same_widths=True,
        cost="channels² per sample and stage",
    )

    needs = ("stages",)

    def __init__(self, weight: float = 50.0) -> None:
        super().__init__(weight)

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """Nothing to build; refuses networks of different widths before the training."""
        self.loss(student, teacher)

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The distance of the flows."""
        s, t = zip(*stage_pairs(student, teacher), strict=True)
        return fsp_loss(s, t)
