"""The teacher's vectors as the student's targets."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import mean, reduction
from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._adapter import Adapter, width
from ctkd_lightning.methods._base import FeatureMethod
from ctkd_lightning.methods._checks import check_features

Distance = Literal["l2", "cosine"]


def vector_kd_loss(student: Tensor, teacher: Tensor, distance: Distance = "l2") -> Tensor:
    r"""Distance of the student's vectors from the teacher's.

    .. math::
        L_{l2} = \frac{1}{B D} \sum_b \lVert s_b - t_b \rVert^2, \qquad
        L_{cosine} = \frac{1}{B} \sum_b \left(1 - \frac{s_b \cdot t_b}{\lVert s_b \rVert \lVert t_b \rVert}\right)

    The first distils sentence embeddings in Reimers and Gurevych, EMNLP 2020, https://arxiv.org/abs/2004.09813; the
    second is for vectors of which the direction alone counts. Computed in float32 or wider.

    Args:
        student: (B, D).
        teacher: the same shape.
        distance: ``"l2"`` or ``"cosine"``.

    Returns:
        A scalar.

    Raises:
        UserError: other shapes, or another distance.

    Example:
        >>> import torch
        >>> vector_kd_loss(torch.tensor([[3.0, 0.0]]), torch.tensor([[3.0, 2.0]]))
        tensor(2.)
    """
    _check_distance(distance)
    check_features(student, teacher, ndim=2, same_shape=True)
    s, t = at_least_float32(student), at_least_float32(teacher)
    if distance == "l2":
        return F.mse_loss(s, t, reduction=reduction(s))
    return mean(1 - F.cosine_similarity(s, t, dim=-1))


def _check_distance(distance: object) -> None:
    if distance not in get_args(Distance):
        raise UserError(f"the vectors' distance is {distance!r}: {suggest(str(distance), get_args(Distance))}")


class VectorKD(FeatureMethod):
    """The teacher's vectors as targets: :func:`vector_kd_loss` as a term of the loss.

    Of networks whose outputs are vectors (``task="vectors"``) these, of classifiers the pooled features. A linear layer
    brings the student's to the teacher's width where these differ; it is trained with the student.

    Args:
        distance: ``"l2"`` or ``"cosine"``.
        weight: factor of the term.

    Raises:
        UserError: a setting out of range.
    """

    facts = MethodFacts(
        paper="Reimers, EMNLP 2020",
        url="https://arxiv.org/abs/2004.09813",
        weight_from="paper",
        own="adapter, where the widths differ",
        name="vector_kd",
    )

    needs = ("pooled",)

    def __init__(self, distance: Distance = "l2", weight: float = 1.0) -> None:
        super().__init__(weight)
        _check_distance(distance)
        self.distance: Distance = distance
        self.adapter: Adapter | None = None

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """The adapter from the student's to the teacher's width, if there is a need for one."""
        s, t = (width(x.feature("pooled")) for x in (student, teacher))
        self.adapter = None if s == t else Adapter(nn.Linear(s, t, bias=False))

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The distance of the vectors."""
        s = student.feature("pooled")
        return vector_kd_loss(s if self.adapter is None else self.adapter(s), teacher.feature("pooled"), self.distance)
