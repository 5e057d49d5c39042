"""DTD's temperature by how hard a sample is among the others of its batch."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning.errors import UserError, check_number, suggest
from ctkd_lightning.features.outputs import Step, at_least_float32
from ctkd_lightning.temperature._base import Temperature
from ctkd_lightning.temperature._over_batch import counted, mean_over_batch
from ctkd_lightning.temperature._softening import Softening, bounded_below, masked_classes

Hardness = Literal["flsw", "cwsm"]


class DynamicBatchTemperature(Temperature):
    r"""Dynamic temperature distillation: the harder a sample is among the batch's, the smaller its τ.

    .. math:: \tau_i = \max(\tau_0 + \beta (\bar w - w_i), \tau_\mathrm{least})

    with a weight for how hard the sample is, either of

    - ``"flsw"``, :math:`w_i = (1 - \cos(s_i, t_i))^\gamma`: student and teacher disagree;
    - ``"cwsm"``, :math:`w_i = 1 / \max_c \mathrm{softmax}(s_i)_c`: the student is unsure,

    and the mean over the batch; 1e-4 is added to the lengths, 1e-3 to the probability. Wen et al., *Preparing Lessons:
    Improve Knowledge Distillation with Better Supervision*, 2019, https://arxiv.org/abs/1911.07471.

    The authors' code is not known; τ agrees with TextBrewer's. There the loss has no factor, so that its size moves
    with τ; here the factor is :math:`\tau_i^2`. There τ has no lower bound: one unsure sample among seven sure ones of
    100 classes has -74.7 by ``"cwsm"``. No gradient flows through τ. β and γ must be chosen; the defaults are ours.

    It reads the whole batch: under DDP the mean is of the samples of all processes, as in one process; in evaluation
    of this process's. Samples that a mask leaves out do not count. ``"flsw"`` has no meaning for independent scores
    (``task="binary"``, ``"multilabel"``), of which the cosine is a sign, and is refused there.

    Args:
        weights: ``"flsw"`` or ``"cwsm"``.
        tau: τ₀.
        beta: β.
        gamma: γ of ``"flsw"``.
        least: lower end of τ.

    Raises:
        UserError: other weights, or numbers out of range.

    Example:
        >>> s, t = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # agree in the first, not in the second
        >>> DynamicBatchTemperature()(s, t)
        tensor([[4.5000],
                [3.5000]])
    """

    facts = TemperatureFacts(
        paper="Wen 2019 (DTD)",
        url="https://arxiv.org/abs/1911.07471",
        what="smaller for the samples that are harder than the batch's others",
        scale="τ²",
        name="dynamic_batch",
        needs="the whole batch",
        breaks="one odd sample among equal ones: the published τ was −75; here no less than 1",
    )

    whole_batch = True

    def __init__(
        self,
        weights: Hardness = "flsw",
        tau: float = 4.0,
        beta: float = 1.0,
        gamma: float = 2.0,
        least: float = 1.0,
    ) -> None:
        super().__init__()
        if weights not in get_args(Hardness):
            raise UserError(f"there are no weights {weights!r}; {suggest(str(weights), get_args(Hardness))}")
        check_number("DynamicBatchTemperature's least", least, above=0)
        check_number("DynamicBatchTemperature's tau", tau, least=least)
        check_number("DynamicBatchTemperature's beta", beta, least=0)
        check_number("DynamicBatchTemperature's gamma", gamma, above=0)
        self.weights, self.tau, self.beta, self.gamma, self.least = weights, tau, beta, gamma, least
        self.needs_classes = weights == "flsw"

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, step: Step | None = None) -> Tensor:
        """τ of each position, (..., 1)."""
        with torch.no_grad():
            weight = self._hardness(student_logits, teacher_logits).unsqueeze(-1)
            counts = counted(step, student_logits).unsqueeze(-1)
            mean = mean_over_batch(weight, counts, together=self.training)
            return (self.tau + self.beta * (mean - weight)).clamp(min=self.least)

    def soften(self, student_logits: Tensor, teacher_logits: Tensor, step: Step | None = None) -> Softening:
        """τ on either side, with the factor τ²."""
        return Softening.at(self(student_logits, teacher_logits, step), student_logits)

    def _hardness(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.weights == "cwsm":
            return 1 / (bounded_below(student).softmax(dim=-1).amax(dim=-1) + 1e-3)
        masked = masked_classes(student) | masked_classes(teacher)  # which say nothing of the sample
        s, t = (_direction(at_least_float32(x).masked_fill(masked, 0.0)) for x in (student, teacher))
        return (1 - (s * t).sum(dim=-1)).clamp(min=0).pow(self.gamma)

    def extra_repr(self) -> str:
        """The settings."""
        return f"weights={self.weights!r}, tau={self.tau}, beta={self.beta}, gamma={self.gamma}, least={self.least}"


def _direction(x: Tensor) -> Tensor:
    return x / (x.norm(dim=-1, keepdim=True) + 1e-4)
