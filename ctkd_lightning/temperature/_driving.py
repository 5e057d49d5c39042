"""Telling temperatures how far the training is, and asking what they need."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ctkd_lightning.curriculum import Curriculum
from ctkd_lightning.temperature._base import LearnedTemperature, Temperature


def drive(
    temperatures: Iterable[Temperature], curriculum: Curriculum | None, epoch: float, fraction: float | None = None
) -> None:
    """Tell temperatures of the progress, and learned ones their λ.

    Args:
        temperatures: learned or not.
        curriculum: λ(epoch); ``None`` leaves λ alone.
        epoch: epochs that have passed.
        fraction: share of the whole training that has passed, where its length is known.
    """
    value = None if curriculum is None else curriculum(epoch)
    for temperature in temperatures:
        if value is not None and isinstance(temperature, LearnedTemperature):
            temperature.lambda_.fill_(value)
        temperature.set_progress(epoch, fraction)


def reads_target(temperature: nn.Module) -> bool:
    """Whether the temperature, or a part of it, asks for the target."""
    return any(isinstance(part, Temperature) and part.needs_target for part in temperature.modules())
