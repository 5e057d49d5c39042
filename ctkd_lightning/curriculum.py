"""Curricula: the strength λ of the gradient reversal as a pure function of the epoch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from ctkd_lightning.errors import UserError, check_number


class Curriculum(ABC):
    """λ(epoch), with epoch ≥ 0 (fractions allowed) and λ in [0, 1]."""

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """λ at this epoch."""


def _check_lambda(name: str, value: float) -> None:
    check_number(f"curriculum's {name}", value)
    if not 0.0 <= value <= 1.0:
        raise UserError(f"curriculum's {name} must be between 0 and 1, found {value}")


@dataclass(frozen=True)
class ConstantCurriculum(Curriculum):
    """The same λ throughout.

    Args:
        value: λ.

    Raises:
        UserError: λ outside [0, 1].
    """

    value: float = 1.0

    def __post_init__(self) -> None:
        _check_lambda("value", self.value)

    def __call__(self, epoch: float) -> float:
        """λ, whatever the epoch."""
        return self.value


@dataclass(frozen=True)
class RampCurriculum(Curriculum):
    """What the rising curricula share: from ``start`` to ``end`` over ``epochs`` epochs, then ``end``.

    Args:
        epochs: length of the ramp in epochs.
        start: λ at epoch 0.
        end: λ from epoch ``epochs`` on.
        first_epoch: where the ramp's clock stands in the first epoch. 0 as in the CTKD paper, whose first epoch has
            λ = ``start``; 1 as in the authors' code, which counts epochs from 1.

    Raises:
        UserError: a length that is no positive number, a first epoch that is none or below 0, or λ outside [0, 1].
    """

    epochs: float = 10
    start: float = 0.0
    end: float = 1.0
    first_epoch: float = 0

    def __post_init__(self) -> None:
        check_number("curriculum's epochs", self.epochs, above=0)
        check_number("curriculum's first_epoch", self.first_epoch, least=0)
        _check_lambda("start", self.start)
        _check_lambda("end", self.end)

    def __call__(self, epoch: float) -> float:
        """λ at this epoch, counted from 0."""
        progress = min(max(epoch + self.first_epoch, 0.0) / self.epochs, 1.0)
        # weighted so that the ends are met exactly
        rise = self._rise(progress)
        return (1.0 - rise) * self.start + rise * self.end

    @abstractmethod
    def _rise(self, progress: float) -> float:
        """Shape of the ramp: from 0 to 1 as progress goes from 0 to 1."""


@dataclass(frozen=True)
class LinearCurriculum(RampCurriculum):
    """λ = start + (end − start) · min(epoch / epochs, 1). Arguments as in :class:`RampCurriculum`.

    Example:
        >>> [LinearCurriculum(epochs=4)(epoch) for epoch in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def _rise(self, progress: float) -> float:
        return progress


@dataclass(frozen=True)
class CosineCurriculum(RampCurriculum):
    """λ = start + (end − start) · (1 − cos(π · min(epoch / epochs, 1))) / 2, the CTKD paper's curriculum.

    Arguments as in :class:`RampCurriculum`.

    Example:
        >>> [round(CosineCurriculum(epochs=4)(epoch), 3) for epoch in range(6)]
        [0.0, 0.146, 0.5, 0.854, 1.0, 1.0]
    """

    def _rise(self, progress: float) -> float:
        return (1.0 - math.cos(math.pi * progress)) / 2.0
