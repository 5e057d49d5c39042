"""Knowledge distillation with learned temperatures for PyTorch Lightning."""

from ctkd_lightning.callbacks import CurriculumTemperatureCallback
from ctkd_lightning.curriculum import ConstantCurriculum, CosineCurriculum, LinearCurriculum
from ctkd_lightning.module import DistillationModule
from ctkd_lightning.temperature import FixedTemperature, GlobalTemperature, InstanceTemperature, gradient_reversal

__version__ = "0.1.0"

__all__ = [
    "ConstantCurriculum",
    "CosineCurriculum",
    "CurriculumTemperatureCallback",
    "DistillationModule",
    "FixedTemperature",
    "GlobalTemperature",
    "InstanceTemperature",
    "LinearCurriculum",
    "gradient_reversal",
]
