"""Distillation losses: a function for each method, and a module beside it."""

from ctkd_lightning.methods.base import Method, NetworkOutput
from ctkd_lightning.methods.dkd import DKD, dkd_loss
from ctkd_lightning.methods.kd import KD, kd_loss

__all__ = ["DKD", "KD", "Method", "NetworkOutput", "dkd_loss", "kd_loss"]
