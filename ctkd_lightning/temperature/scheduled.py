"""A temperature that follows the progress of the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning.errors import UserError, check_number, suggest
from ctkd_lightning.temperature._given import GivenTemperature


def _linear(start: float, end: float, x: float) -> float:
    return (1 - x) * start + x * end  # meets both ends exactly


def _cosine(start: float, end: float, x: float) -> float:
    return _linear(start, end, (1 - math.cos(math.pi * x)) / 2)


def _listed(taus: Sequence[float], x: float) -> float:
    return taus[min(int(x * len(taus) + 1e-9), len(taus) - 1)]  # 0.29 · 100 is less than 29


CURVES = {"linear": _linear, "cosine": _cosine}
"""τ of start, end and the share of the training that has passed."""


class ScheduledTemperature(GivenTemperature):
    r"""τ as a curve over the training.

    .. math:: \tau(x) = \tau_\mathrm{start} + c(x) (\tau_\mathrm{end} - \tau_\mathrm{start})

    with x the share of the training that has passed, and :math:`c(x) = x` (``"linear"``) or
    :math:`(1 - \cos \pi x) / 2` (``"cosine"``), kept between ``least`` and ``most``. Or any curve τ(x); or a list of τ,
    each for an equal share of the training.

    The schedule of Islam, *Dynamic Temperature Scheduler for Knowledge Distillation*, 2025,
    https://arxiv.org/abs/2511.13767, is its cosine from 4 to 0, no less than 2:
    ``ScheduledTemperature("cosine", start=4, end=0, least=2)``. Their code counts epochs from 1, so that it is an epoch
    ahead, and follows the curve with a lag of some ten steps
    (:math:`\tau \leftarrow 0.9 \tau + 0.1 \tau(x)`); the part that reads the gap of both networks' cross-entropies is
    not here.

    Args:
        curve: ``"linear"``, ``"cosine"``, a function of x, or a list of τ.
        start: τ at the start, of a named curve.
        end: where a named curve leads; may be beyond ``least`` and ``most``.
        least: what τ is never below.
        most: what τ is never above; ``None`` for no such bound.
        epochs: what counts as the length of the training, at whose end the curve stays; the training's own by default.

    Raises:
        UserError: a curve that there is not, bounds that are none, a list that holds no positive numbers; in use, a
            training of unknown length, or a curve that gives no positive number.

    Example:
        >>> import torch
        >>> temperature = ScheduledTemperature("linear", start=8.0, end=2.0)
        >>> temperature.set_progress(epoch=30, fraction=0.5)
        >>> temperature(torch.zeros(2, 10), torch.zeros(2, 10))
        tensor(5.)
    """

    facts = TemperatureFacts(
        paper="Islam 2025 (DTS)",
        url="https://arxiv.org/abs/2511.13767",
        what="a curve of the training's progress",
        needs="the length of the training",
    )

    def __init__(
        self,
        curve: str | Callable[[float], float] | Sequence[float] = "cosine",
        start: float = 4.0,
        end: float = 1.0,
        least: float = 0.1,
        most: float | None = None,
        epochs: float | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("start", start), ("end", end)):
            check_number(f"ScheduledTemperature's {name}", value)
        check_number("ScheduledTemperature's least", least, above=0)
        if most is not None:
            check_number("ScheduledTemperature's most", most, least=least)
        if epochs is not None:
            check_number("ScheduledTemperature's epochs", epochs, above=0)
        self.least, self.most, self.epochs = least, most, epochs
        self.curve = _curve_of(curve, start, end)
        self.tau.fill_(self.at(0.0))

    def at(self, fraction: float) -> float:
        """τ where that share of the training has passed.

        Raises:
            UserError: the curve gives no number.
        """
        tau = self.curve(min(max(fraction, 0.0), 1.0))
        check_number(f"ScheduledTemperature's curve at {fraction:.3g} of the training", tau)
        tau = max(float(tau), self.least)
        return tau if self.most is None else min(tau, self.most)

    def set_progress(self, epoch: float, fraction: float | None = None) -> None:
        """Go on along the curve.

        Raises:
            UserError: the length of the training is not known, and no ``epochs`` are given.
        """
        if self.epochs is not None:
            fraction = epoch / self.epochs
        if fraction is None:
            raise UserError(
                "ScheduledTemperature follows the share of the training that has passed, and its length is not known: "
                "pass epochs=, or limit the training by max_epochs or max_steps"
            )
        self.tau.fill_(self.at(fraction))

    def extra_repr(self) -> str:
        """Where the curve stands."""
        return f"tau={float(self.tau):.4g}"


def _curve_of(
    curve: str | Callable[[float], float] | Sequence[float], start: float, end: float
) -> Callable[[float], float]:
    if isinstance(curve, str):
        if curve not in CURVES:
            raise UserError(f"there is no curve {curve!r} for ScheduledTemperature; {suggest(curve, CURVES)}")
        return partial(CURVES[curve], start, end)
    if callable(curve):
        return curve
    taus = list(cast(Sequence[float], curve)) if isinstance(curve, Sequence) else []
    if not taus:
        raise UserError(
            f"ScheduledTemperature's curve must be one of {', '.join(CURVES)}, a function or a list of τ, found "
            f"{curve!r}"
        )
    for place, tau in enumerate(taus, 1):
        check_number(f"ScheduledTemperature's τ {place} of {len(taus)}", tau, above=0)
    return partial(_listed, taus)
