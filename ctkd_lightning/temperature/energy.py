"""Energy KD's temperatures: three, by how sure the teacher is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor

from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning.errors import UserError, check_number, suggest
from ctkd_lightning.temperature._base import Temperature
from ctkd_lightning.temperature._softening import bounded_below

_AT = 4.0  # the τ at which the authors take the energy

Sure = Literal["sharper", "softer"]


class EnergyTemperature(Temperature):
    r"""The teacher's surest and least sure samples have a τ of their own.

    .. math:: E_i = -4 \log \sum_c \exp(t_{ic} / 4)

    is low where the teacher is sure; below ``low`` and above ``high`` τ is another than between. Kim et al.,
    *Maximizing Discrimination Capability of Knowledge Distillation with Energy Function*, Knowledge-Based Systems 2024,
    https://arxiv.org/abs/2311.14334, built from the formula.

    The authors say both directions: their code's defaults give sure samples the *smaller* τ (``sure="sharper"``), the
    abstract the *larger* (``sure="softer"``). The user should choose; the default is the code's.

    The two thresholds are energies of the training set, which :meth:`fit` finds in one pass before the training; the
    comparison is strict. The command asks the teacher for each training image once, not augmented; the authors' pass
    sees augmented images and leaves the last, incomplete batch out. The energy depends on the teacher's scale and on
    how it shifts its logits. Independent scores (``task="binary"``, ``"multilabel"``) have no such energy, and are
    refused.

    Args:
        sure: ``"sharper"`` or ``"softer"``.
        tau_least: the smallest τ.
        tau: of the samples between the thresholds.
        tau_most: the largest.
        low: threshold of the sure samples, an energy.
        high: threshold of the unsure ones.

    Raises:
        UserError: settings out of range or order, one threshold without the other; in training, no thresholds.

    Example:
        >>> teacher = torch.tensor([[40.0, 0.0], [20.0, 0.0], [1.0, 0.0]])
        >>> EnergyTemperature(low=-30.0, high=-10.0)(teacher, teacher)
        tensor([[2.],
                [4.],
                [6.]])
    """

    facts = TemperatureFacts(
        paper="Kim, KBS 2024 (Energy KD)",
        url="https://arxiv.org/abs/2311.14334",
        what="three constants, by how sure the teacher is of the sample",
        needs="a pass over the training set",
        breaks="teachers that are equally sure of all samples: thresholds too near each other to tell them apart",
    )

    needs_classes = True

    def __init__(
        self,
        sure: Sure = "sharper",
        tau_least: float = 2.0,
        tau: float = 4.0,
        tau_most: float = 6.0,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        super().__init__()
        if sure not in get_args(Sure):
            raise UserError(f"EnergyTemperature's sure is {sure!r}; {suggest(str(sure), get_args(Sure))}")
        check_number("EnergyTemperature's tau_least", tau_least, above=0)
        check_number("EnergyTemperature's tau", tau, least=tau_least)
        check_number("EnergyTemperature's tau_most", tau_most, least=tau)
        if (low is None) != (high is None):
            raise UserError("EnergyTemperature has one threshold: give low= and high=, or neither and call fit")
        self.sure, self.tau = sure, tau
        self.of_sure, self.of_unsure = (tau_least, tau_most) if sure == "sharper" else (tau_most, tau_least)
        self.low, self.high = low, high
        if low is not None:
            check_number("EnergyTemperature's low", low)
            check_number("EnergyTemperature's high", high, least=low)

    @torch.no_grad()
    def fit(self, teacher_logits: Iterable[Tensor], share: float = 0.2) -> None:
        """Find the thresholds: what so many of the samples, at either end, lie beyond.

        Args:
            teacher_logits: of the training set, in batches (..., C).
            share: of the samples at each end; the authors' 0.2, and 0.3 for ResNet-56 to ResNet-20.

        Raises:
            UserError: a share out of range, or no samples.
        """
        check_number("EnergyTemperature's share", share, least=0, below=0.5)
        energies = [_energy(logits).flatten().cpu() for logits in teacher_logits]
        if not sum(map(len, energies)):
            raise UserError("EnergyTemperature finds its thresholds in the training set, found no samples: pass some")
        ascending = torch.cat(energies).sort().values
        beyond = int(len(ascending) * share)
        self.low, self.high = float(ascending[beyond]), float(ascending[-(beyond + 1)])

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """τ of each position, (..., 1)."""
        energy = _energy(teacher_logits.detach()).unsqueeze(-1)
        tau = torch.full_like(energy, self.tau)
        if self.low is None or self.high is None:
            if not self.training:  # as where an engine tries its methods on an example, before anything is known
                return tau
            raise UserError(
                "EnergyTemperature has no thresholds: call fit with the teacher's logits of the training set, or pass "
                "low= and high= (on the command line temperature.low=… temperature.high=…)"
            )
        return tau.masked_fill(energy < self.low, self.of_sure).masked_fill(energy > self.high, self.of_unsure)

    def extra_repr(self) -> str:
        """Direction, τ and thresholds."""
        return f"sure={self.sure!r}, tau={self.tau}, low={self.low}, high={self.high}"


def _energy(logits: Tensor) -> Tensor:
    return -_AT * (bounded_below(logits) / _AT).logsumexp(dim=-1)
