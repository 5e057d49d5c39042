"""Distillation losses: a function for each method, and a module beside it."""

from ctkd_lightning.methods.base import Method, NetworkOutput
from ctkd_lightning.methods.crd import CRD, crd_loss
from ctkd_lightning.methods.dkd import DKD, dkd_loss
from ctkd_lightning.methods.kd import KD, kd_loss
from ctkd_lightning.methods.pkt import PKT, pkt_loss
from ctkd_lightning.methods.sp import SP, sp_loss
from ctkd_lightning.methods.srrl import SRRL, srrl_loss
from ctkd_lightning.methods.vid import VID, vid_loss

__all__ = [
    "CRD",
    "DKD",
    "KD",
    "PKT",
    "SP",
    "SRRL",
    "VID",
    "Method",
    "NetworkOutput",
    "crd_loss",
    "dkd_loss",
    "kd_loss",
    "pkt_loss",
    "sp_loss",
    "srrl_loss",
    "vid_loss",
]
