"""The terms of an arm's loss, as its configuration names them."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from ctkd_lightning import methods
from ctkd_lightning.reporting.arms import Arm

_KD = "ctkd_lightning.methods.KD"
_OF_ONE_TAU = {f"ctkd_lightning.temperature.{name}Temperature" for name in ("Fixed", "Global", "Instance")}


def terms(arm: Arm) -> dict[str, str]:
    """The class of each distillation term by its name, under which it is logged as ``train/NAME``."""
    found = OmegaConf.select(arm.runs[0].configuration, "method.terms") or {}
    return {str(name): str(term.get("_target_")) for name, term in found.items() if isinstance(term, DictConfig)}


def is_kd(arm: Arm) -> bool:
    """Whether the only term that its temperature acts on is KD."""
    return {target for target in terms(arm).values() if _softens(target)} == {_KD}


def is_kd_at_one_tau(arm: Arm) -> bool:
    """Whether, more than that, its KD divides a sample's logits of both networks by one τ, and has the factor τ²."""
    configuration = arm.runs[0].configuration
    return (
        is_kd(arm)
        and OmegaConf.select(configuration, "temperature._target_") in _OF_ONE_TAU
        and not OmegaConf.select(configuration, "temperature_per_method")
    )


def is_rule(arm: Arm) -> bool:
    """Whether its temperature is a rule that softens by the logits themselves, on top of another temperature."""
    return OmegaConf.select(arm.runs[0].configuration, "temperature.base") is not None


def _softens(target: str) -> bool:
    """Whether the temperature acts on a method; it may on one that is not the package's own."""
    module, _, name = target.rpartition(".")
    own = getattr(methods, name, None) if module == methods.__name__ else None
    return own is None or own.uses_temperature
