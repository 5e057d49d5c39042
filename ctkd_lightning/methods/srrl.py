"""Softmax regression representation learning: student features that the teacher's classifier understands."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import reduction
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._adapter import Adapter, BatchNorm, width
from ctkd_lightning.methods._base import FeatureMethod, built
from ctkd_lightning.methods._checks import check_features, check_logits
from ctkd_lightning.temperature._softening import masked_classes


def srrl_loss(features: Tensor, teacher_features: Tensor, logits: Tensor, teacher_logits: Tensor) -> Tensor:
    r"""Distance of the student's adapted features from the teacher's, also through the teacher's classifier.

    .. math:: L = \mathrm{mse}(\hat f_s, f_t) + \mathrm{mse}(W_t \hat f_s + b_t, z_t)

    Classes that the teacher masks, with logits of -9000 or less, do not count.

    Yang et al., *Knowledge Distillation via Softmax Regression Representation Learning*, ICLR 2021,
    https://openreview.net/forum?id=ZzwDy_wiWv. Computed in float32 or wider.

    Args:
        features: (B, D), the student's, adapted to the teacher's width.
        teacher_features: (B, D).
        logits: (B, C), of the teacher's classifier on the adapted features.
        teacher_logits: (B, C), the teacher's own.

    Returns:
        A scalar.

    Raises:
        UserError: shapes that differ, or logits that are not (B, C).

    Example:
        >>> import torch
        >>> srrl_loss(torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1, 3), torch.full((1, 3), 2.0))
        tensor(5.)
    """
    check_features(features, teacher_features, ndim=2, same_shape=True)
    check_logits(logits, teacher_logits, ndim=2)
    features, teacher_features, logits, teacher_logits = (
        at_least_float32(x) for x in (features, teacher_features, logits, teacher_logits)
    )
    masked = masked_classes(teacher_logits)
    squares = (logits - teacher_logits).masked_fill(masked, 0.0).square()
    distance = F.mse_loss(features, teacher_features, reduction=reduction(features))
    return distance + squares.sum() / masked.logical_not().sum().clamp(min=1)


class SRRL(FeatureMethod):
    """Softmax regression representation learning on the pooled features: :func:`srrl_loss` as a term of the loss.

    The adapter is a linear layer without bias, batch normalisation and a rectifier, as in the authors' code. The
    teacher's output must bring its ``classifier``.

    Args:
        weight: factor of the term.
        gather: whether the adapters' batch normalisation takes, in training, the statistics of all processes' batches,
            as one process with all of them would; else of each process's own, as PyTorch's does.
    """

    facts = MethodFacts(
        paper="Yang, ICLR 2021",
        url="https://openreview.net/forum?id=ZzwDy_wiWv",
        weight_from="CTKD's code",
        classifier=True,
        own="adapter",
    )

    needs = ("pooled",)

    def __init__(self, weight: float = 1.0, gather: bool = True) -> None:
        super().__init__(weight, gather=gather)
        self.adapter: Adapter | None = None

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """The adapter from the student's to the teacher's width."""
        s, t = (width(x.feature("pooled")) for x in (student, teacher))
        self.adapter = Adapter(nn.Linear(s, t, bias=False), BatchNorm(t, gather=self.gather), nn.ReLU())

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The distance of the adapted features and of their logits."""
        if teacher.classifier is None:
            raise UserError(
                "SRRL needs the teacher's classifier, found none: take a teacher that ends in a linear layer, or "
                "another method"
            )
        features = built(self.adapter, self)(student.feature("pooled"))
        pooled = teacher.feature("pooled")
        logits = teacher.classifier(features.to(pooled.dtype))
        # those of other tasks than one class out of several have another shape by now
        expected = teacher.logits if teacher.logits.shape == logits.shape else teacher.classifier(pooled)
        return srrl_loss(features, pooled, logits, expected)
