"""Correlation congruence: differences between the networks that do not run through the batch."""

from __future__ import annotations

from torch import Tensor, nn

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning.errors import check_number
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._adapter import Adapter, width
from ctkd_lightning.methods._base import FeatureMethod, built
from ctkd_lightning.methods._checks import check_features


def cc_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Correlation of the two embeddings' distance with that of the next sample.

    .. math:: L = \frac{1}{B - 1} \sum_{i=1}^{B-1} \sum_d |s_{id} - t_{id}| \cdot |s_{i+1,d} - t_{i+1,d}|

    Peng et al., *Correlation Congruence for Knowledge Distillation*, ICCV 2019, https://arxiv.org/abs/1904.01802. The
    paper compares kernel matrices of the whole batch; this is the form of the reference implementation, whose numbers
    are the published ones, and its weight 0.02. Computed in float32 or wider.

    Args:
        student: (B, D).
        teacher: (B, D).

    Returns:
        A scalar; 0 for a batch of one.

    Raises:
        UserError: features that are no vectors of the same shape.

    Example:
        >>> import torch
        >>> cc_loss(torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 2.0]]))
        tensor(9.)
    """
    check_features(student, teacher, ndim=2, same_shape=True)
    distance = (at_least_float32(student) - at_least_float32(teacher)).abs()
    return (distance[:-1] * distance[1:]).sum() / max(len(distance) - 1, 1)


class CC(FeatureMethod):
    """Correlation congruence of the pooled features: :func:`cc_loss` of trainable linear embeddings of both.

    Args:
        dim: width of the embeddings.
        weight: factor of the term.
        gather: whether it relates, in training, the samples of all processes' batches, as one process with all of them
            would; else those of each process's own.

    Raises:
        UserError: a setting out of range.
    """

    facts = MethodFacts(
        paper="Peng, ICCV 2019",
        url="https://arxiv.org/abs/1904.01802",
        weight_from="RepDistiller",
        own="embeddings",
    )

    relational = True
    needs = ("pooled",)

    def __init__(self, dim: int = 128, weight: float = 0.02, gather: bool = True) -> None:
        super().__init__(weight, gather=gather)
        check_number("CC's dim", dim, least=1, whole=True)
        self.dim = int(dim)
        self.student_embedding: Adapter | None = None
        self.teacher_embedding: Adapter | None = None

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """The embeddings of both networks' pooled features."""
        self.student_embedding = Adapter(nn.Linear(width(student.feature("pooled")), self.dim))
        self.teacher_embedding = Adapter(nn.Linear(width(teacher.feature("pooled")), self.dim))

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The correlation of the embeddings' distances."""
        s = built(self.student_embedding, self)(student.feature("pooled"))
        t = built(self.teacher_embedding, self)(teacher.feature("pooled"))
        return cc_loss(*self.whole(s, t))
