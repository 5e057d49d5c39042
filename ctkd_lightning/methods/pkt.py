"""Probabilistic knowledge transfer: the same neighbours in both feature spaces."""

from __future__ import annotations

from torch import Tensor

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import mean
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._base import FeatureMethod
from ctkd_lightning.methods._checks import check_features, no_autocast, unit


def pkt_loss(student: Tensor, teacher: Tensor, eps: float = 1e-7) -> Tensor:
    r"""Divergence between the probabilities of being neighbours, from teacher to student.

    .. math::
        L = \frac{1}{B^2} \sum_{ij} p_{ij} \log \frac{p_{ij}}{q_{ij}}, \qquad
        q_{ij} = \frac{k(s_i, s_j)}{\sum_l k(s_i, s_l)}, \quad k(a, b) = \frac{1}{2} (\cos(a, b) + 1)

    and p likewise of the teacher's features t. The cost is quadratic in the batch. Computed in float32 or wider.

    Passalis and Tefas, *Learning Deep Representations with Probabilistic Knowledge Transfer*, ECCV 2018,
    https://arxiv.org/abs/1803.10837. The paper sums; its code, and this one, take the mean over all pairs.

    Args:
        student: (B, Ds).
        teacher: (B, Dt).
        eps: added to both probabilities inside the logarithm.

    Returns:
        A scalar.

    Raises:
        UserError: features that are no vectors of the same batch.

    Example:
        >>> import torch
        >>> pkt_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0], [1.0]]))
        tensor(0.0294)
    """
    check_features(student, teacher, ndim=2)
    with no_autocast(student):
        q, p = _neighbour_probabilities(student), _neighbour_probabilities(teacher)
        return mean(p * ((p + eps) / (q + eps)).log())


def _neighbour_probabilities(features: Tensor) -> Tensor:
    direction = unit(at_least_float32(features))
    # rounding takes the cosine of opposite vectors below -1, and the logarithm to NaN
    similarity = ((direction @ direction.T + 1) / 2).clamp(min=0)
    return similarity / similarity.sum(dim=1, keepdim=True)


class PKT(FeatureMethod):
    """Probabilistic knowledge transfer of the pooled features: :func:`pkt_loss` as a term of the loss.

    Args:
        weight: factor of the term, 30000 in the CTKD paper.
        gather: whether it relates, in training, the samples of all processes' batches, as one process with all of them
            would; else those of each process's own.
    """

    facts = MethodFacts(
        paper="Passalis, ECCV 2018",
        url="https://arxiv.org/abs/1803.10837",
        weight_from="CTKD's code",
        cost="B²",
    )

    relational = True
    needs = ("pooled",)

    def __init__(self, weight: float = 30000.0, gather: bool = True) -> None:
        super().__init__(weight, gather=gather)

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The divergence of the pooled features' neighbourhoods."""
        s, t = self.whole(student.feature("pooled"), teacher.feature("pooled"))
        return pkt_loss(s, t)
