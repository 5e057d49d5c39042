"""Channel-wise distillation: where in the map each channel is active."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import mean
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import NetworkOutput, Step, at_least_float32
from ctkd_lightning.methods._adapter import Adapter, conv1x1, width
from ctkd_lightning.methods._base import Method
from ctkd_lightning.methods._checks import check_features, pool_to_smaller
from ctkd_lightning.temperature import Softening


def cwd_loss(student: Tensor, teacher: Tensor, temperature: float | Tensor | Softening) -> Tensor:
    r"""Divergence of the channels' softened activations over the positions.

    .. math::
        L = \frac{1}{B D} \sum_{b, d} \tau^2 \, \mathrm{KL}\!\left(p^t_{bd} \,\Vert\, p^s_{bd}\right), \qquad
        p_{bd} = \mathrm{softmax}_i (f_{bdi} / \tau)

    with i over the positions of a map. Shu et al., *Channel-wise Knowledge Distillation for Dense Prediction*, ICCV
    2021, https://arxiv.org/abs/2011.13256; the maps may be features or a segmentation's logits. Computed in float32 or
    wider.

    Args:
        student: (B, D, …) with one or more dimensions of positions.
        teacher: the same shape.
        temperature: τ > 0, one for all or one a sample (B,) or (B, 1); or a :class:`~ctkd_lightning.Softening` of such.

    Returns:
        A scalar.

    Raises:
        UserError: maps of different shapes or without positions, or a τ for each position or channel.

    Example:
        >>> import torch
        >>> cwd_loss(torch.zeros(1, 1, 2, 2), torch.tensor([[[[9.0, 0.0], [0.0, 0.0]]]]), 1.0)
        tensor(1.3825)
    """
    check_features(student, teacher, same_shape=True)
    if student.ndim < 3:
        raise UserError(
            f"CWD softens each channel over the positions of a map, found {tuple(student.shape)}, which has none: name "
            "a layer that gives maps (B, D, H, W), as with student_layers={'last': 'backbone'}"
        )
    softening = Softening.at(temperature, student.new_zeros(len(student), 2))
    s, t = at_least_float32(student).flatten(2), at_least_float32(teacher).flatten(2)
    log_q, log_p = (
        (x / _of_sample(tau, len(x), 2)).log_softmax(dim=-1)
        for x, tau in ((s, softening.student), (t, softening.teacher))
    )
    divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)
    return mean(_of_sample(softening.scale.unsqueeze(-1), len(s), 1) * divergence)


def _of_sample(value: Tensor, count: int, dims: int) -> Tensor:
    """One value, or one a sample, that broadcasts with (B, …) of so many more dimensions."""
    if value.numel() == 1:
        return value.reshape(())
    if value.shape != (count, 1):
        raise UserError(
            f"CWD takes one τ for all or one a sample, found a temperature of shape {tuple(value.shape)}: take "
            "FixedTemperature(4.0) or GlobalTemperature()"
        )
    return value.view(count, *(1,) * dims)


class CWD(Method):
    """Channel-wise distillation of the last map: :func:`cwd_loss` as a term of the loss.

    A pointwise convolution brings the student's map to the teacher's channels where these differ, as in the authors'
    code; maps of different sizes are pooled to the smaller one. For the logits of a segmentation name the layer that
    gives them as the last: ``student_layers={"last": "head"}, teacher_layers={"last": "head"}``.

    Args:
        weight: factor of the term: the authors' of feature maps, 50; theirs of logits is 3.
    """

    facts = MethodFacts(
        paper="Shu, ICCV 2021",
        url="https://arxiv.org/abs/2011.13256",
        weight_from="authors' code",
        tau="paper: 4",
        own="adapter, where the widths differ",
        cost="one softmax of the map",
    )

    needs = ("last",)
    uses_temperature = True

    def __init__(self, weight: float = 50.0) -> None:
        super().__init__(weight)
        self.adapter: Adapter | None = None

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """The adapter from the student's to the teacher's width, if there is a need for one."""
        s, t = (width(x.feature("last")) for x in (student, teacher))
        self.adapter = None if s == t else Adapter(conv1x1(s, t))

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, step: Step, softening: Softening) -> Tensor:
        """The divergence of the last maps."""
        s, t = pool_to_smaller(student.feature("last"), teacher.feature("last"))
        return cwd_loss(s if self.adapter is None else self.adapter(s), t, softening)
