"""Distillation losses: a function for each method, and a module beside it."""

from ctkd_lightning.features.outputs import NetworkOutput, Step
from ctkd_lightning.methods._base import FeatureMethod, LogitMethod, Method
from ctkd_lightning.methods._linear_kd import linear_kd_loss, linear_losses
from ctkd_lightning.methods._top_k_kd import top_k_kd_loss
from ctkd_lightning.methods.ab import AB, ab_loss
from ctkd_lightning.methods.annealing_kd import AnnealingKD, annealing_kd_loss
from ctkd_lightning.methods.at import AT, at_loss
from ctkd_lightning.methods.cc import CC, cc_loss
from ctkd_lightning.methods.crd import CRD, crd_loss
from ctkd_lightning.methods.cwd import CWD, cwd_loss
from ctkd_lightning.methods.dist import DIST, dist_loss
from ctkd_lightning.methods.dkd import DKD, dkd_loss
from ctkd_lightning.methods.fitnet import FitNet, fitnet_loss
from ctkd_lightning.methods.fsp import FSP, fsp_loss
from ctkd_lightning.methods.ft import FT, ft_loss
from ctkd_lightning.methods.kd import KD, kd_loss
from ctkd_lightning.methods.kdsvd import KDSVD, kdsvd_loss
from ctkd_lightning.methods.lskd import LSKD, lskd_loss
from ctkd_lightning.methods.mlkd import MLKD, mlkd_loss
from ctkd_lightning.methods.normkd import NormKD, normkd_loss
from ctkd_lightning.methods.nst import NST, nst_loss
from ctkd_lightning.methods.ofd import OFD, ofd_loss
from ctkd_lightning.methods.pkt import PKT, pkt_loss
from ctkd_lightning.methods.reviewkd import ReviewKD, reviewkd_loss
from ctkd_lightning.methods.rkd import RKD, rkd_loss
from ctkd_lightning.methods.sp import SP, sp_loss
from ctkd_lightning.methods.srrl import SRRL, srrl_loss
from ctkd_lightning.methods.ttm import TTM, WTTM, ttm_loss, wttm_loss
from ctkd_lightning.methods.vector_kd import VectorKD, vector_kd_loss
from ctkd_lightning.methods.vid import VID, vid_loss

__all__ = [
    "AB",
    "AT",
    "CC",
    "CRD",
    "CWD",
    "DIST",
    "DKD",
    "FSP",
    "FT",
    "KD",
    "KDSVD",
    "LSKD",
    "MLKD",
    "NST",
    "OFD",
    "PKT",
    "RKD",
    "SP",
    "SRRL",
    "TTM",
    "VID",
    "WTTM",
    "AnnealingKD",
    "FeatureMethod",
    "FitNet",
    "LogitMethod",
    "Method",
    "NetworkOutput",
    "NormKD",
    "ReviewKD",
    "Step",
    "VectorKD",
    "ab_loss",
    "annealing_kd_loss",
    "at_loss",
    "cc_loss",
    "crd_loss",
    "cwd_loss",
    "dist_loss",
    "dkd_loss",
    "fitnet_loss",
    "fsp_loss",
    "ft_loss",
    "kd_loss",
    "kdsvd_loss",
    "linear_kd_loss",
    "linear_losses",
    "lskd_loss",
    "mlkd_loss",
    "normkd_loss",
    "nst_loss",
    "ofd_loss",
    "pkt_loss",
    "reviewkd_loss",
    "rkd_loss",
    "sp_loss",
    "srrl_loss",
    "top_k_kd_loss",
    "ttm_loss",
    "vector_kd_loss",
    "vid_loss",
    "wttm_loss",
]
