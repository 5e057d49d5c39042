"""Knowledge distillation with learned temperatures for PyTorch Lightning."""

from typing import TYPE_CHECKING

from ctkd_lightning._lazy import lazy_names

if TYPE_CHECKING:
    from ctkd_lightning.callbacks import CurriculumTemperatureCallback
    from ctkd_lightning.curriculum import ConstantCurriculum, CosineCurriculum, LinearCurriculum
    from ctkd_lightning.distillation import Distillation
    from ctkd_lightning.features._asking import StudentCall
    from ctkd_lightning.features.outputs import Step
    from ctkd_lightning.fusion import ModalityCorruption, TemperatureFusion
    from ctkd_lightning.modules.distillation import DistillationModule
    from ctkd_lightning.modules.fusion import FusionModule
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
    "FusionModule",
    "GlobalTemperature",
    "InstanceTemperature",
    "LinearCurriculum",
    "ModalityCorruption",
    "Softening",
    "Step",
    "StudentCall",
    "TemperatureFusion",
    "gradient_reversal",
]

_CURRICULA = ("ConstantCurriculum", "CosineCurriculum", "LinearCurriculum")
_TEMPERATURES = ("FixedTemperature", "GlobalTemperature", "InstanceTemperature", "Softening", "gradient_reversal")

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        # asked for anew each time: a command line looks at the class's bases before it makes a callback
        "CurriculumTemperatureCallback": "ctkd_lightning.callbacks",
        "Distillation": "ctkd_lightning.distillation",
        "DistillationModule": "ctkd_lightning.modules.distillation",
        "Step": "ctkd_lightning.features.outputs",
        "StudentCall": "ctkd_lightning.features._asking",
        "FusionModule": "ctkd_lightning.modules.fusion",
        "ModalityCorruption": "ctkd_lightning.fusion",
        "TemperatureFusion": "ctkd_lightning.fusion",
        **dict.fromkeys(_CURRICULA, "ctkd_lightning.curriculum"),
        **dict.fromkeys(_TEMPERATURES, "ctkd_lightning.temperature"),
    },
)
