"""Factor transfer: the teacher's maps paraphrased, the student's translated."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import mean, reduction
from ctkd_lightning.errors import check_number
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._adapter import Adapter, BatchNorm, width
from ctkd_lightning.methods._base import FeatureMethod, built
from ctkd_lightning.methods._checks import check_features, pool_to_smaller, unit


def ft_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean absolute distance of the normalised factors.

    .. math::
        L = \frac{1}{B H W} \sum_i \lVert Q(s_i) - Q(t_i) \rVert_1, \qquad
        Q(f) = \frac{a(f)}{\lVert a(f) \rVert_2}, \quad a(f) = \frac{1}{D} \sum_d f_d^2

    Kim et al., *Paraphrasing Complex Network: Network Compression via Factor Transfer*, NeurIPS 2018,
    https://arxiv.org/abs/1802.04977. The paper normalises the factors themselves; the squares' mean over the channels
    is the reference implementation's. Computed in float32 or wider.

    Args:
        student: (B, Ds, Hs, Ws), the translator's factors.
        teacher: (B, Dt, Ht, Wt), the paraphraser's; maps of different sizes are pooled to the smaller one.

    Returns:
        A scalar.

    Raises:
        UserError: factors that are no maps of the same batch.

    Example:
        >>> import torch
        >>> student = torch.tensor([[[[1.0, 0.0]]]])
        >>> ft_loss(student, student.flip(-1))
        tensor(1.)
    """
    check_features(student, teacher, ndim=4)
    s, t = pool_to_smaller(at_least_float32(student), at_least_float32(teacher))
    return mean((_factor(s) - _factor(t)).abs())


def _factor(features: Tensor) -> Tensor:
    return unit(features.square().mean(dim=1).flatten(1))


class FT(FeatureMethod):
    """Factor transfer on the last maps: :func:`ft_loss` as a term of the loss.

    The paper trains the paraphraser, an autoencoder of the teacher's maps, before the student. Here it learns beside
    the student: its error of reconstruction joins the total loss with weight 1, and no gradient flows between the two.

    Args:
        rate: channels of the factors, as a fraction of the teacher's.
        weight: factor of the term.
        gather: whether the adapters' batch normalisation takes, in training, the statistics of all processes' batches,
            as one process with all of them would; else of each process's own, as PyTorch's does.

    Raises:
        UserError: a setting out of range.
    """

    facts = MethodFacts(
        paper="Kim, NeurIPS 2018",
        url="https://arxiv.org/abs/1802.04977",
        weight_from="RepDistiller",
        own="paraphraser, translator",
        cost="six 3×3 convolutions on the last maps",
    )

    needs = ("last",)

    def __init__(self, rate: float = 0.5, weight: float = 200.0, gather: bool = True) -> None:
        super().__init__(weight, gather=gather)
        check_number("FT's rate", rate, above=0)
        self.rate = rate
        self.paraphraser: Adapter | None = None
        self.reconstruction: Adapter | None = None
        self.translator: Adapter | None = None

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """Paraphraser and its way back for the teacher's width, translator for the student's."""
        s, t = width(student.feature("last")), width(teacher.feature("last"))
        factors = max(int(self.rate * t), 1)
        self.paraphraser = self._convolutions(t, t, factors)
        self.reconstruction = self._convolutions(factors, factors, t)
        self.translator = self._convolutions(s, s, factors)

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The distance of the factors, and the paraphraser's error of reconstruction."""
        t = at_least_float32(teacher.feature("last"))
        paraphrased = built(self.paraphraser, self)(t)
        loss = ft_loss(built(self.translator, self)(student.feature("last")), paraphrased.detach())
        if not self.full_weight:
            return loss
        error = F.mse_loss(at_least_float32(built(self.reconstruction, self)(paraphrased)), t, reduction=reduction(t))
        return loss + error / self.full_weight

    def _convolutions(self, *widths: int) -> Adapter:
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            norm = BatchNorm(after, gather=self.gather)
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), norm, nn.LeakyReLU(0.1)]
        return Adapter(*layers)
