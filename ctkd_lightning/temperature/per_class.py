"""A learned temperature for each class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.temperature._base import LearnedTemperature, Objective
from ctkd_lightning.temperature._rule import spread
from ctkd_lightning.temperature._softening import Softening


class PerClassTemperature(LearnedTemperature):
    r"""One learned number for each class, as CTKD's global temperature is one for all.

    .. math::

        \frac{s_{ic} - \bar s_i}{\tau_c}, \qquad
        \tau_c = \tau_\mathrm{init} + \tau_\mathrm{range} \, \mathrm{sigmoid}(p + \tanh(d_c))

    on both sides, with the harmonic mean of :math:`\tau_c^2` over the classes for the factor: with equal :math:`d_c`,
    as at the start, where they are 0, it is :class:`GlobalTemperature`. Ours; no paper has it. Logits divided by
    different τ do not stay as they are when they are shifted, and a shift says nothing of the classes: so each side is
    first brought to mean 0.

    p moves as CTKD's, and no class goes further from it than 1. A class's gradient goes with the factor over
    :math:`\tau_c^2`: an adversary that may lower one class's τ alone raises that class's steps up to some hundred
    times, by which students were lost; here it is some seven times at most.

    Args:
        num_classes: C.
        tau_init: lower end of τ.
        tau_range: width of the range above it.
        initial_value: p at the start.
        objective: as for :class:`LearnedTemperature`.

    Raises:
        UserError: numbers out of range; in use, logits with another number of classes.

    Example:
        >>> PerClassTemperature(num_classes=10)(torch.randn(3, 10), torch.randn(3, 10)).shape
        torch.Size([10])
    """

    facts = TemperatureFacts(
        paper="ours, after Li, AAAI 2023 (CTKD)",
        url="https://arxiv.org/abs/2211.16231",
        what="learned, one a class near one for all; of logits around their mean",
        scale="harmonic mean of τ_c²",
        name="per_class",
        needs="a curriculum; the number of classes",
        breaks="as global",
    )

    def __init__(
        self,
        num_classes: int,
        tau_init: float = 1.0,
        tau_range: float = 20.0,
        initial_value: float = 1.0,
        objective: Objective = "adversarial",
    ) -> None:
        super().__init__(tau_init, tau_range, objective)
        check_number("PerClassTemperature's num_classes", num_classes, least=1, whole=True)
        check_number("temperature's initial_value", initial_value)
        self.value = nn.Parameter(torch.tensor(float(initial_value)))
        self.of_class = nn.Parameter(torch.zeros(int(num_classes)))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """τ of each class, (C,)."""
        if student_logits.shape[-1] != len(self.of_class):
            two = ", as each score of task='binary' or 'multilabel' has" if student_logits.shape[-1] == 2 else ""
            raise UserError(
                f"PerClassTemperature was made for {len(self.of_class)} classes; found student logits "
                f"{tuple(student_logits.shape)}: pass num_classes={student_logits.shape[-1]}{two}"
            )
        return self.bounded(self.value + self.of_class.tanh())

    def soften(self, student_logits: Tensor, teacher_logits: Tensor, step: Step | None = None) -> Softening:
        """τ of each class on either side, around the classes' mean, with the harmonic mean of τ² for the factor."""
        tau = self(student_logits, teacher_logits)
        student_mean, teacher_mean = (spread(logits)[0] for logits in (student_logits, teacher_logits))
        return Softening(tau, tau, tau.square().reciprocal().mean().reciprocal(), student_mean, teacher_mean)
