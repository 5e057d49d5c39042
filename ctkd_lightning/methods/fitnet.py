"""FitNets: the teacher's middle map as a hint."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import reduction
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._adapter import Adapter, BatchNorm, conv1x1, width
from ctkd_lightning.methods._base import FeatureMethod, built, middle_pair
from ctkd_lightning.methods._checks import check_features, pool_to_smaller


def fitnet_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared distance of the student's adapted map from the teacher's.

    .. math:: L = \frac{1}{B D H W} \lVert r(f_s) - f_t \rVert_2^2

    Romero et al., *FitNets: Hints for Thin Deep Nets*, ICLR 2015, https://arxiv.org/abs/1412.6550. Computed in float32
    or wider.

    Args:
        student: r(f_s), (B, D, H, W), what an adapter makes of the student's map.
        teacher: f_t, the same shape.

    Returns:
        A scalar.

    Raises:
        UserError: features of different shapes.

    Example:
        >>> import torch
        >>> fitnet_loss(torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5))
        tensor(0.2500)
    """
    check_features(student, teacher, same_shape=True)
    return F.mse_loss(at_least_float32(student), at_least_float32(teacher), reduction=reduction(student))


class FitNet(FeatureMethod):
    """FitNets' hint on the middle stage's map: :func:`fitnet_loss` as a term of the loss.

    The adapter is a pointwise convolution with batch normalisation; maps of different sizes are pooled to the smaller
    one. The paper trains on the hint first and on the labels then; here, as in later comparisons, it is a term from the
    first step to the last.

    Args:
        weight: factor of the term.
        gather: whether the adapters' batch normalisation takes, in training, the statistics of all processes' batches,
            as one process with all of them would; else of each process's own, as PyTorch's does.
    """

    facts = MethodFacts(
        paper="Romero, ICLR 2015",
        url="https://arxiv.org/abs/1412.6550",
        weight_from="RepDistiller",
        reads="the middle one",
        own="adapter",
        cost="one pointwise convolution",
    )

    needs = ("stages",)

    def __init__(self, weight: float = 100.0, gather: bool = True) -> None:
        super().__init__(weight, gather=gather)
        self.adapter: Adapter | None = None

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """The adapter from the student's to the teacher's width."""
        s, t = middle_pair(student, teacher)
        self.adapter = Adapter(conv1x1(width(s), width(t)), BatchNorm(width(t), gather=self.gather))

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The distance of the middle maps."""
        s, t = pool_to_smaller(*middle_pair(student, teacher))
        return fitnet_loss(built(self.adapter, self)(s), t)
