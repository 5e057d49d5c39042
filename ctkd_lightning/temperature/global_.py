"""CTKD's one learned temperature."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning.errors import check_number
from ctkd_lightning.temperature._base import LearnedTemperature, Objective

_AT_FIRST_1 = math.log(0.25 / 0.75)  # p of τ = 0.5 + 2 · sigmoid(p)
_AT_FIRST_1_2 = math.log(0.05 / 0.95)  # p of τ = 1 + 4 · sigmoid(p)


class GlobalTemperature(LearnedTemperature):
    """One learned scalar p for all samples (CTKD's global version): τ = tau_init + tau_range · sigmoid(p).

    Args:
        tau_init: lower end of τ.
        tau_range: width of the range above it.
        initial_value: p at the start; with the defaults τ starts at 15.62.
        objective: as for :class:`LearnedTemperature`.

    Raises:
        UserError: a lower end or a range that is no positive number, or a start that is no number.

    Example:
        >>> logits = torch.zeros(2, 10)
        >>> GlobalTemperature()(logits, logits)
        tensor(15.6212, grad_fn=<AddBackward0>)
    """

    facts = TemperatureFacts(
        paper="Li, AAAI 2023 (CTKD)",
        url="https://arxiv.org/abs/2211.16231",
        what="one learned number",
        needs="a curriculum",
        breaks="at an end of its range, or under λ = 0, it stands still; both are said",
    )

    def __init__(
        self,
        tau_init: float = 1.0,
        tau_range: float = 20.0,
        initial_value: float = 1.0,
        objective: Objective = "adversarial",
    ) -> None:
        super().__init__(tau_init, tau_range, objective)
        check_number("temperature's initial_value", initial_value)
        self.value = nn.Parameter(torch.tensor(float(initial_value)))

    @classmethod
    def for_tokens(cls, objective: Objective = "adversarial") -> GlobalTemperature:
        """One for classes that are the tokens of a vocabulary: τ in [1, 5], at first 1.2.

        There CTKD's own start, 15.6, takes most of the gain away: nearly all of the softened mass is then that of
        thousands of tokens that nobody means.
        """
        return cls(tau_init=1.0, tau_range=4.0, initial_value=_AT_FIRST_1_2, objective=objective)

    @classmethod
    def for_detectors(cls, objective: Objective = "adversarial") -> GlobalTemperature:
        """One for the places that a detector scores: τ in [0.5, 2.5], at first 1.

        Most places are background; far above 1 nearly every one of them looks like every other.
        """
        return cls(tau_init=0.5, tau_range=2.0, initial_value=_AT_FIRST_1, objective=objective)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """τ, a scalar."""
        return self.bounded(self.value)
