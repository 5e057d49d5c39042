"""Distillation losses: a function for each method, and a module beside it."""

from ctkd_lightning.methods.base import Method, NetworkOutput
from ctkd_lightning.methods.kd import KD, kd_loss

__all__ = ["KD", "Method", "NetworkOutput", "kd_loss"]
