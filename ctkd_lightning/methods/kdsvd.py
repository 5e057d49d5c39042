"""Self-supervised distillation by singular vectors: how the channels' main directions change between stages."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._base import FeatureMethod, stage_pairs
from ctkd_lightning.methods._checks import check_features, no_autocast, unit

# directions of the student among which the teacher's are looked for, beside as many as the teacher has
_SPARE = 3


def kdsvd_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], rank: int = 1) -> Tensor:
    r"""Squared distance of the kernel matrices between neighbouring stages' singular vectors.

    .. math::
        L = \frac{1}{B} \sum_{l} \lVert R^s_l - R^t_l \rVert_2^2, \qquad
        R_{l, cdk} = \exp\left(-\tfrac{1}{8} (v_{l, ck} - v_{l-1, dk})^2\right)

    with :math:`v_{lk}` the k-th right singular vector of the map as a matrix of positions × channels, scaled by its
    share of the teacher's singular values. A singular vector has no sign: the teacher's are turned so that their
    entries' sum is not negative. The student's may also come in another order: each of the teacher's is paired with the
    student's most parallel one, turned to its side. Computed in float32 or
    wider; the gradient of vectors whose singular values coincide is damped, where it would be infinite.

    Lee et al., *Self-supervised Knowledge Distillation Using Singular Value Decomposition*, ECCV 2018,
    https://arxiv.org/abs/1807.06819.

    Args:
        student: two maps (B, D, H, W) or more, from the image to the classifier.
        teacher: maps with the same numbers of channels.
        rank: singular vectors of a map.

    Returns:
        A scalar.

    Raises:
        UserError: fewer than two maps, different widths, or a rank that is no whole number from 1.

    Example:
        >>> maps = [torch.rand(2, 3, 8, 8), torch.rand(2, 4, 4, 4)]
        >>> kdsvd_loss([3 * x for x in maps], maps) < 1e-9
        tensor(True)
    """
    check_number("KDSVD's rank", rank, least=1, whole=True)
    if len(student) != len(teacher) or len(student) < 2:
        raise UserError(
            f"kdsvd_loss found {len(student)} student maps and {len(teacher)} teacher maps: pass two or more of each"
        )
    pairs = [_aligned_directions(s, t, int(rank)) for s, t in zip(student, teacher, strict=True)]
    losses = [
        (_kernel(s, s_before) - _kernel(t, t_before)).square().sum() / max(len(s), 1)
        for (s_before, t_before), (s, t) in itertools.pairwise(pairs)
    ]
    return torch.stack(losses).sum()


def _kernel(after: Tensor, before: Tensor) -> Tensor:
    rank = min(after.shape[2], before.shape[2])
    difference = after[:, :, None, :rank] - before[:, None, :, :rank]
    return (-difference.square() / 8).exp()


def _aligned_directions(student: Tensor, teacher: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Directions (B, D, rank) of both maps, the student's paired with the teacher's."""
    check_features(student, teacher, ndim=4)
    if student.shape[1] != teacher.shape[1]:
        raise UserError(
            f"KDSVD compares networks of the same widths; found maps of {student.shape[1]} channels of the student and "
            f"{teacher.shape[1]} of the teacher: choose another pair or another method"
        )
    with no_autocast(student):
        s, _ = _directions(at_least_float32(student), rank + _SPARE)
        t, share = _directions(at_least_float32(teacher), rank)
        t = t * _sign(t.sum(dim=1, keepdim=True))
        cosine = s.transpose(1, 2) @ t
        nearest = cosine.abs().argmax(dim=1, keepdim=True)
        s = s.gather(2, nearest.expand(-1, s.shape[1], -1)) * _sign(cosine.gather(1, nearest))
    return s * share, t * share


def _sign(x: Tensor) -> Tensor:
    return torch.where(x < 0, -1.0, 1.0)


def _directions(features: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The first right singular vectors (B, D, rank) and their shares of the singular values (B, 1, rank)."""
    matrix = features.flatten(2).transpose(1, 2)
    by_position = matrix.shape[1] < matrix.shape[2]
    # of the smaller of the two Gram matrices; its eigenvalues, the squares, come in rising order
    gram = matrix @ matrix.transpose(1, 2) if by_position else matrix.transpose(1, 2) @ matrix
    squares, vectors = _SymmetricEigen.apply(gram)
    rank = min(rank, gram.shape[1])
    vectors = vectors[:, :, -rank:].flip(2)
    values = squares[:, -rank:].flip(1).clamp(min=0).detach().sqrt()
    if by_position:
        vectors = unit(matrix.transpose(1, 2) @ vectors)
    return vectors, unit(values).unsqueeze(1)


class _SymmetricEigen(torch.autograd.Function):
    """Eigenvectors whose gradient stays finite where eigenvalues meet: 1/δ becomes δ/(δ² + ε²)."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        ctx.save_for_backward(values, vectors)
        ctx.mark_non_differentiable(values)
        return values, vectors

    @staticmethod
    def backward(ctx: Any, _: Tensor, gradient: Tensor) -> Tensor:
        values, vectors = ctx.saved_tensors
        gap = values.unsqueeze(-2) - values.unsqueeze(-1)
        info = torch.finfo(values.dtype)
        bound = info.eps**0.5 * values[..., -1:, None]
        inverse = gap / (gap.square() + bound.square() + info.tiny)
        inner = (vectors.transpose(-1, -2) @ gradient) * inverse
        result = vectors @ inner @ vectors.transpose(-1, -2)
        return (result + result.transpose(-1, -2)) / 2


class KDSVD(FeatureMethod):
    """Distillation of the stages' singular vectors: :func:`kdsvd_loss` as a term, for networks of the same widths.

    Args:
        rank: singular vectors of a map.
        weight: factor of the term.

    Raises:
        UserError: a setting out of range.
    """

    facts = MethodFacts(
        paper="Lee, ECCV 2018",
        url="https://arxiv.org/abs/1807.06819",
        weight_from="mdistiller",
        same_widths=True,
        cost="an eigendecomposition per sample and stage: slow",
    )

    needs = ("stages",)

    def __init__(self, rank: int = 1, weight: float = 1.0) -> None:
        super().__init__(weight)
        check_number("KDSVD's rank", rank, least=1, whole=True)
        self.rank = int(rank)

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """Nothing to build; refuses networks of different widths before the training."""
        self.loss(student, teacher)

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The distance of the kernel matrices."""
        s, t = zip(*stage_pairs(student, teacher), strict=True)
        return kdsvd_loss(s, t, self.rank)
