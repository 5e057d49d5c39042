"""Temperatures: fixed, learned for all samples or per sample, and rules that soften by the logits themselves."""

from ctkd_lightning.temperature._base import LearnedTemperature, Temperature
from ctkd_lightning.temperature._gradient_reversal import gradient_reversal
from ctkd_lightning.temperature._softening import Softening
from ctkd_lightning.temperature.asymmetric import AsymmetricTemperature
from ctkd_lightning.temperature.class_scaled import ClassScaledTemperature
from ctkd_lightning.temperature.dynamic import DynamicTemperature
from ctkd_lightning.temperature.dynamic_batch import DynamicBatchTemperature
from ctkd_lightning.temperature.energy import EnergyTemperature
from ctkd_lightning.temperature.fixed import FixedTemperature
from ctkd_lightning.temperature.global_ import GlobalTemperature
from ctkd_lightning.temperature.instance import InstanceTemperature
from ctkd_lightning.temperature.lskd import LSKDTemperature
from ctkd_lightning.temperature.normkd import NormKDTemperature
from ctkd_lightning.temperature.per_class import PerClassTemperature
from ctkd_lightning.temperature.recorded import RecordedTemperature
from ctkd_lightning.temperature.scheduled import ScheduledTemperature
from ctkd_lightning.temperature.spherical import SphericalTemperature
from ctkd_lightning.temperature.ttm import TTMTemperature, WTTMTemperature

__all__ = [
    "AsymmetricTemperature",
    "ClassScaledTemperature",
    "DynamicBatchTemperature",
    "DynamicTemperature",
    "EnergyTemperature",
    "FixedTemperature",
    "GlobalTemperature",
    "InstanceTemperature",
    "LSKDTemperature",
    "LearnedTemperature",
    "NormKDTemperature",
    "PerClassTemperature",
    "RecordedTemperature",
    "ScheduledTemperature",
    "Softening",
    "SphericalTemperature",
    "TTMTemperature",
    "Temperature",
    "WTTMTemperature",
    "gradient_reversal",
]
