"""Similarity-preserving distillation: samples alike for the teacher are alike for the student."""

from __future__ import annotations

from torch import Tensor

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import mean
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._base import FeatureMethod
from ctkd_lightning.methods._checks import check_features, no_autocast, unit


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared distance of the batch's normalised Gram matrices.

    .. math::
        L = \frac{1}{B^2} \lVert \tilde G_s - \tilde G_t \rVert_F^2, \qquad
        G = F F^\top, \quad \tilde G_i = G_i / \lVert G_i \rVert_2

    with F the flattened features (B, D H W) and :math:`G_i` the rows. The cost is quadratic in the batch. Computed in
    float32 or wider.

    Tung and Mori, *Similarity-Preserving Knowledge Distillation*, ICCV 2019, https://arxiv.org/abs/1907.09682.

    Args:
        student: (B, …).
        teacher: (B, …), of any other shape.

    Returns:
        A scalar.

    Raises:
        UserError: features that are not of the same batch.

    Example:
        >>> import torch
        >>> sp_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0], [1.0]]))
        tensor(0.2929)
    """
    check_features(student, teacher)
    with no_autocast(student):
        return mean((_similarities(student) - _similarities(teacher)).square())


def _similarities(features: Tensor) -> Tensor:
    flat = at_least_float32(features).flatten(1)
    return unit(flat @ flat.T)


class SP(FeatureMethod):
    """Similarity-preserving distillation of the last map: :func:`sp_loss` as a term of the loss.

    Args:
        weight: factor of the term, 3000 in the CTKD paper.
        gather: whether it relates, in training, the samples of all processes' batches, as one process with all of them
            would; else those of each process's own.
    """

    facts = MethodFacts(
        paper="Tung, ICCV 2019",
        url="https://arxiv.org/abs/1907.09682",
        weight_from="CTKD's code",
        cost="B² · map",
    )

    relational = True
    needs = ("last",)

    def __init__(self, weight: float = 3000.0, gather: bool = True) -> None:
        super().__init__(weight, gather=gather)

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The distance of the last maps' Gram matrices."""
        return sp_loss(*self.whole(student.feature("last"), teacher.feature("last")))
