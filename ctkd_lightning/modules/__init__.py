"""LightningModules: a classifier, and a student with its teacher."""

from typing import TYPE_CHECKING

from ctkd_lightning._lazy import lazy_names

if TYPE_CHECKING:
    from ctkd_lightning.modules.classifier import ClassifierModule, SupervisedModule
    from ctkd_lightning.modules.distillation import DistillationModule

__all__ = ["ClassifierModule", "DistillationModule", "SupervisedModule"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ClassifierModule": "ctkd_lightning.modules.classifier",
        "DistillationModule": "ctkd_lightning.modules.distillation",
        "SupervisedModule": "ctkd_lightning.modules.classifier",
    },
)
