"""Temperatures: fixed, learned for all samples, learned per sample."""

from ctkd_lightning.temperature.base import LearnedTemperature, Temperature
from ctkd_lightning.temperature.fixed import FixedTemperature
from ctkd_lightning.temperature.global_ import GlobalTemperature
from ctkd_lightning.temperature.gradient_reversal import gradient_reversal
from ctkd_lightning.temperature.instance import InstanceTemperature

__all__ = [
    "FixedTemperature",
    "GlobalTemperature",
    "InstanceTemperature",
    "LearnedTemperature",
    "Temperature",
    "gradient_reversal",
]
