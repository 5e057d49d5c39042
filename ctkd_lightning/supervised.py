"""The name under which version 0.1 had :mod:`ctkd_lightning.modules`."""

from ctkd_lightning.modules.classifier import ClassifierModule, SupervisedModule

__all__ = ["ClassifierModule", "SupervisedModule"]
