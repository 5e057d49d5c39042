"""LightningModules: a classifier, a student with its teacher, a detector, and encoders with their fusion."""

from typing import TYPE_CHECKING

from ctkd_lightning._lazy import lazy_names

if TYPE_CHECKING:
    from ctkd_lightning.modules.classifier import ClassifierModule, SupervisedModule
    from ctkd_lightning.modules.detection import DetectionModule
    from ctkd_lightning.modules.distillation import DistillationModule
    from ctkd_lightning.modules.fusion import EncodersModule, FusionModule

__all__ = [
    "ClassifierModule",
    "DetectionModule",
    "DistillationModule",
    "EncodersModule",
    "FusionModule",
    "SupervisedModule",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ClassifierModule": "ctkd_lightning.modules.classifier",
        "DetectionModule": "ctkd_lightning.modules.detection",
        "DistillationModule": "ctkd_lightning.modules.distillation",
        "EncodersModule": "ctkd_lightning.modules.fusion",
        "FusionModule": "ctkd_lightning.modules.fusion",
        "SupervisedModule": "ctkd_lightning.modules.classifier",
    },
)
