"""Knowledge review: each of the teacher's stages teaches the student's stage and those before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import reduction
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._adapter import Adapter, BatchNorm, conv1x1, width
from ctkd_lightning.methods._base import FeatureMethod, built, pair_ends
from ctkd_lightning.methods._checks import check_features

_PYRAMID = (4, 2, 1)


def reviewkd_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    r"""Hierarchical context loss: squared distance of maps and of their pooled pyramids, summed over the levels.

    .. math::
        L = \sum_l \frac{\sum_{k=0}^{K} 2^{-k} \, \mathrm{mse}(P_k s_l, P_k t_l)}{\sum_{k=0}^{K} 2^{-k}}

    with :math:`P_0` the identity and :math:`P_1, P_2, …` pooling to 4, 2 and 1 squared, as far as these are smaller
    than the map. Computed in float32 or wider.

    Chen et al., *Distilling Knowledge via Knowledge Review*, CVPR 2021, https://arxiv.org/abs/2104.09044.

    Args:
        student: maps (B, D, H, W), fused and adapted, one a level.
        teacher: maps of the same shapes.

    Returns:
        A scalar.

    Raises:
        UserError: different numbers of levels, or maps of different shapes.

    Example:
        >>> reviewkd_loss([torch.zeros(1, 2, 8, 8)], [torch.ones(1, 2, 8, 8)])
        tensor(1.)
    """
    if len(student) != len(teacher) or not student:
        raise UserError(
            f"reviewkd_loss found {len(student)} student maps and {len(teacher)} teacher maps: pass one of each a level"
        )
    return torch.stack([_context_loss(s, t) for s, t in zip(student, teacher, strict=True)]).sum()


def _context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    check_features(student, teacher, ndim=4, same_shape=True)
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    loss = F.mse_loss(student, teacher, reduction=reduction(student))
    weight, total = 1.0, 1.0
    for size in _PYRAMID:
        if size < student.shape[2]:
            weight /= 2
            total += weight
            pooled = F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)
            loss = loss + weight * F.mse_loss(*pooled, reduction=reduction(student))
    return loss / total


class AttentionFusion(nn.Module):
    """Fuse a student's map with what was fused from the deeper ones, by a learned attention over the two.

    Args:
        student_width: channels of the student's map.
        fused_width: channels of the fused map.
        teacher_width: channels of the teacher's map.
        deepest: whether no deeper map comes in.
        gather: as in :class:`ReviewKD`.
    """

    def __init__(
        self, student_width: int, fused_width: int, teacher_width: int, deepest: bool, gather: bool = True
    ) -> None:
        super().__init__()
        self.reduce = Adapter(conv1x1(student_width, fused_width), BatchNorm(fused_width, gather=gather))
        self.attention = None if deepest else Adapter(nn.Conv2d(2 * fused_width, 2, 1), nn.Sigmoid())
        expand = nn.Conv2d(fused_width, teacher_width, 3, padding=1, bias=False)
        self.expand = Adapter(expand, BatchNorm(teacher_width, gather=gather))
        for adapter in (self.reduce, self.expand):
            nn.init.kaiming_uniform_(cast(Tensor, adapter[0].weight), a=1)  # as the authors draw them

    def forward(self, student: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """The map for the teacher's, of height and width ``size``, and the fused map for the next level."""
        fused = self.reduce(student)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, fused.shape[2:])
            share = self.attention(torch.cat([fused, deeper], dim=1))
            fused = fused * share[:, :1] + deeper * share[:, 1:]
        fused = fused if fused.shape[2:] == size else F.interpolate(fused, size)
        return self.expand(fused), fused


class ReviewKD(FeatureMethod):
    """Knowledge review of all stages and of the pooled features, as a map of one pixel: :func:`reviewkd_loss`.

    As in the authors' code the teacher's stages are read before their activation, the student's behind it.

    Args:
        max_width: the most channels of the fused maps, which otherwise have as many as the student's last.
        weight: factor of the term: 1 in the paper, 5 for resnet32x4 to resnet8x4.
        warmup_epochs: epochs over which the factor rises linearly, 20 in the paper.
        gather: whether the adapters' batch normalisation takes, in training, the statistics of all processes' batches,
            as one process with all of them would; else of each process's own, as PyTorch's does.

    Raises:
        UserError: a setting out of range.
    """

    facts = MethodFacts(
        paper="Chen, CVPR 2021",
        url="https://arxiv.org/abs/2104.09044",
        weight_from="authors' code",
        own="fusions",
        cost="a pointwise and a 3×3 convolution a stage",
    )

    needs = ("stages", "pooled")
    teacher_needs = ("preacts", "pooled")

    def __init__(self, max_width: int = 512, weight: float = 1.0, warmup_epochs: int = 20, gather: bool = True) -> None:
        super().__init__(weight, warmup_epochs, gather=gather)
        check_number("ReviewKD's max_width", max_width, least=1, whole=True)
        self.max_width = int(max_width)
        self.fusions: nn.ModuleList | None = None

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """One fusion a level, the deepest first."""
        levels = _levels(student, teacher)
        fused = min(self.max_width, width(levels[0][0]))
        self.fusions = nn.ModuleList(
            AttentionFusion(width(s), fused, width(t), i == 0, self.gather) for i, (s, t) in enumerate(levels)
        )

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The context loss of the fused maps."""
        levels = _levels(student, teacher)
        fused: Tensor | None = None
        adapted = []
        for fusion, (s, t) in zip(built(self.fusions, self), levels, strict=True):
            out, fused = fusion(s, fused, t.shape[2:])
            adapted.append(out)
        return reviewkd_loss(adapted, [t for _, t in levels])


def _levels(student: NetworkOutput, teacher: NetworkOutput) -> list[tuple[Tensor, Tensor]]:
    pooled = student.feature("pooled")[:, :, None, None], teacher.feature("pooled")[:, :, None, None]
    return [pooled, *reversed(pair_ends(student.stages, teacher.preacts))]
