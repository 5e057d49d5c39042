"""Lightning callbacks."""

from ctkd_lightning.callbacks.curriculum import CurriculumTemperatureCallback

__all__ = ["CurriculumTemperatureCallback"]
