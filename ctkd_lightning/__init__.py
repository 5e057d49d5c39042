"""Knowledge distillation with learned temperatures for PyTorch Lightning."""

from ctkd_lightning.callbacks import CurriculumTemperatureCallback
from ctkd_lightning.curriculum import ConstantCurriculum, CosineCurriculum, LinearCurriculum
from ctkd_lightning.distillation import Distillation
from ctkd_lightning.module import DistillationModule
from ctkd_lightning.temperature import (
    FixedTemperature,
    GlobalTemperature,
    InstanceTemperature,
    Softening,
    gradient_reversal,
)

__version__ = "0.1.0"

__all__ = [
    "ConstantCurriculum",
    "CosineCurriculum",
    "CurriculumTemperatureCallback",
    "Distillation",
    "DistillationModule",
    "FixedTemperature",
    "GlobalTemperature",
    "InstanceTemperature",
    "LinearCurriculum",
    "Softening",
    "gradient_reversal",
]
