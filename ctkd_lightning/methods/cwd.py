"""Channel-wise distillation: where each channel looks."""

from __future__ import annotations

from torch import Tensor, nn

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import mean
from ctkd_lightning.errors import check_number
from ctkd_lightning.features.outputs import NetworkOutput, at_least_float32
from ctkd_lightning.methods._adapter import Adapter, conv1x1, width
from ctkd_lightning.methods._base import FeatureMethod, built
from ctkd_lightning.methods._checks import check_features, pool_to_smaller


def cwd_loss(student: Tensor, teacher: Tensor, tau: float = 4.0) -> Tensor:
    r"""Divergence of each channel's softmax over the positions.

    .. math::
        L = \frac{\tau^2}{B D} \sum_{i, d} \mathrm{KL}\!\left(
            \mathrm{softmax}_{h, w}(t_{i d} / \tau) \,\middle\|\, \mathrm{softmax}_{h, w}(s_{i d} / \tau) \right)

    Shu et al., *Channel-wise Knowledge Distillation for Dense Prediction*, ICCV 2021, https://arxiv.org/abs/2011.13256.
    Computed in float32 or wider.

    Args:
        student: (B, D, H, W), a map of features or of logits.
        teacher: the same shape.
        tau: τ > 0, of this softmax alone: it says over how many positions a channel spreads, not over how many classes.

    Returns:
        A scalar.

    Raises:
        UserError: features of different shapes, or a τ that is no finite number above 0.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[[[0.0, 50.0]]]])
        >>> cwd_loss(torch.zeros(1, 1, 1, 2), teacher, tau=1.0)  # log 2
        tensor(0.6931)
    """
    check_features(student, teacher, ndim=4, same_shape=True)
    check_number("CWD's tau", tau, above=0)
    s, t = (at_least_float32(x).flatten(2).div(tau).log_softmax(dim=-1) for x in (student, teacher))
    return tau**2 * mean((t.exp() * (t - s)).sum(dim=-1))


class CWD(FeatureMethod):
    """Channel-wise distillation of the last map: :func:`cwd_loss` as a term of the loss.

    For segmentation name the layer that gives the logits as ``last`` in ``student_layers`` and ``teacher_layers``, with
    the authors' weight of 3 for logits. A student's map of another width goes through a pointwise convolution; maps of
    different sizes are pooled to the smaller one.

    Args:
        tau: the temperature of its softmax over the positions; the training's own does not act on it.
        weight: factor of the term.

    Raises:
        UserError: a setting out of range.
    """

    facts = MethodFacts(
        paper="Shu, ICCV 2021",
        url="https://arxiv.org/abs/2011.13256",
        weight_from="authors' code",
        own="adapter, where the widths differ",
        cost="one pointwise convolution",
    )

    needs = ("last",)

    def __init__(self, tau: float = 4.0, weight: float = 50.0) -> None:
        super().__init__(weight)
        check_number("CWD's tau", tau, above=0)
        self.tau = float(tau)
        self.adapter: nn.Module | None = None

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """The adapter from the student's to the teacher's width."""
        widths = [width(output.feature("last")) for output in (student, teacher)]
        self.adapter = nn.Identity() if widths[0] == widths[1] else Adapter(conv1x1(*widths))

    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The divergence of the last maps."""
        s, t = pool_to_smaller(student.feature("last"), teacher.feature("last"))
        return cwd_loss(built(self.adapter, self)(s), t, self.tau)
