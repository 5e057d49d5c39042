"""Knowledge distillation with learned temperatures for PyTorch Lightning."""

from typing import TYPE_CHECKING, Any

from ctkd_lightning import callbacks
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

if TYPE_CHECKING:
    from ctkd_lightning.callbacks import CurriculumTemperatureCallback

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


def __getattr__(name: str) -> Any:
    if name == "CurriculumTemperatureCallback":  # which asks its package for Lightning's distributions, each time
        return callbacks.CurriculumTemperatureCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
