"""Relational knowledge distillation: the same distances and angles between samples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import reduction
from ctkd_lightning.errors import check_number
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._base import FeatureMethod
from ctkd_lightning.methods._checks import check_features, no_autocast, unit


def rkd_loss(
    student: Tensor,
    teacher: Tensor,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
    vertices: int = 64,
) -> Tensor:
    r"""Huber distance of the batch's pairwise distances and of its angles.

    .. math::
        L = \frac{w_D}{B^2} \sum_{ij} \ell(\delta^s_{ij} - \delta^t_{ij})
            + \frac{w_A}{V B^2} \sum_{ijk} \ell(\cos^s_{ijk} - \cos^t_{ijk})

    with δ the Euclidean distance divided by its mean over the batch, :math:`\cos_{ijk}` of the angle at sample i
    between samples j and k, and ℓ the Huber function. The paper's angles at all samples cost the cube of the batch:
    here the first V (of a shuffled batch) are the vertices, all of them up to ``vertices``. Computed in float32 or
    wider.

    Park et al., *Relational Knowledge Distillation*, CVPR 2019, https://arxiv.org/abs/1904.05068.

    Args:
        student: (B, Ds).
        teacher: (B, Dt).
        distance_weight: w_D.
        angle_weight: w_A.
        vertices: the most samples at which angles are measured.

    Returns:
        A scalar.

    Raises:
        UserError: features that are no vectors of the same batch, weights that are no finite numbers from 0, or
            ``vertices`` that is no whole number from 1.

    Example:
        >>> square = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> rkd_loss(5 * square + 7, square) < 1e-9
        tensor(True)
    """
    check_features(student, teacher, ndim=2)
    _check_settings(distance_weight, angle_weight, vertices)
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    with no_autocast(student):
        how = reduction(student)
        distance = F.smooth_l1_loss(_distances(student), _distances(teacher), reduction=how)
        angle = F.smooth_l1_loss(_cosines(student, int(vertices)), _cosines(teacher, int(vertices)), reduction=how)
    return distance_weight * distance + angle_weight * angle


def _check_settings(distance_weight: float, angle_weight: float, vertices: int) -> None:
    check_number("RKD's distance_weight", distance_weight, least=0)
    check_number("RKD's angle_weight", angle_weight, least=0)
    check_number("RKD's vertices", vertices, least=1, whole=True)


def _distances(x: Tensor) -> Tensor:
    # exact differences: by way of the Gram matrix equal samples would get a noise for a distance
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distance.sum() / (distance > 0).sum().clamp(min=1)
    return distance / torch.where(mean > 0, mean, torch.ones_like(mean))


def _cosines(x: Tensor, vertices: int) -> Tensor:
    direction = unit(x.unsqueeze(0) - x[:vertices].unsqueeze(1), dim=2)
    return direction @ direction.transpose(1, 2)


class RKD(FeatureMethod):
    """Relational distillation of the pooled features: :func:`rkd_loss` as a term of the loss.

    Args:
        distance_weight: w_D.
        angle_weight: w_A.
        vertices: the most samples of a batch at which angles are measured.
        weight: factor of the term.
        gather: whether it relates, in training, the samples of all processes' batches, as one process with all of them
            would; else those of each process's own.

    Raises:
        UserError: a setting out of range.
    """

    facts = MethodFacts(
        paper="Park, CVPR 2019",
        url="https://arxiv.org/abs/1904.05068",
        weight_from="RepDistiller",
        cost="B² · width; angles at 64 samples at most",
    )

    relational = True
    needs = ("pooled",)

    def __init__(
        self,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        vertices: int = 64,
        weight: float = 1.0,
        gather: bool = True,
    ) -> None:
        super().__init__(weight, gather=gather)
        _check_settings(distance_weight, angle_weight, vertices)
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight
        self.vertices = int(vertices)

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The distance of the pooled features' relations."""
        s, t = self.whole(student.feature("pooled"), teacher.feature("pooled"))
        return rkd_loss(s, t, self.distance_weight, self.angle_weight, self.vertices)
