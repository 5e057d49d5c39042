"""Fusion of several scorers, each with a temperature: modalities, or teachers."""

from ctkd_lightning.fusion.calibration import fit_temperatures
from ctkd_lightning.fusion.corruption import ModalityCorruption
from ctkd_lightning.fusion.fusion import TemperatureFusion
from ctkd_lightning.fusion.network import FusedNetwork

__all__ = ["FusedNetwork", "ModalityCorruption", "TemperatureFusion", "fit_temperatures"]
