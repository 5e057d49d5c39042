"""What can be found wrong before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.filesize import decimal
from torch import nn

from ctkd_lightning._files import user_path
from ctkd_lightning._reading import check_regular
from ctkd_lightning.callbacks.finite import all_finite
from ctkd_lightning.errors import UserError, check_number, suggest
from ctkd_lightning.job.hardware import accelerator_in_use
from ctkd_lightning.job.measures import MEASURES
from ctkd_lightning.job.summary import Best, FusionSummary, NetworkSummary, Summary
from ctkd_lightning.models._bounds import check_nesting
from ctkd_lightning.models._checkpoint import read_pickle

_PARTS = {"epoch": int, "state_dict": Mapping, "loops": Mapping, "optimizer_states": list}
"""Of a Lightning checkpoint to resume from."""

_PARTS_OF_SUMMARY = {
    "best": Best, "teacher": NetworkSummary, "student": NetworkSummary, "baseline": NetworkSummary,
}  # fmt: skip

_SMALL, _STATES = 2**26, 256  # bytes beside the tensors; states for a parameter: LBFGS keeps two hundred


def check_parts(cfg: DictConfig) -> None:
    """Refuse a configuration without one of its parts, or with something else in its place.

    Raises:
        UserError: naming the part.
    """
    needed = ["method", "method.terms", "trainer", "optimizer", "optimizer.optimizer", "curriculum"]
    if not cfg.get("fusion"):
        needed += ["model", "model.teacher", "model.student", "temperature", "teacher", "teacher.optimizer"]
    for key in needed:
        if not isinstance(found := OmegaConf.select(cfg, key), Mapping):
            raise UserError(f"{key} must be a group of settings, found {found}: leave it as it is, or give another")
    if not isinstance(found := OmegaConf.select(cfg, "teacher.data"), Mapping | None):
        raise UserError(f"teacher.data must be settings of data, such as {{limit_train: null}}, found {found}")
    for key in ("student_layers", "teacher_layers"):
        if not isinstance(found := OmegaConf.select(cfg, key), Mapping | None):
            raise UserError(f"{key} must be layers by role, such as {{pooled: avgpool}}, found {found}")
    task = OmegaConf.select(cfg, "model.task")
    if not cfg.get("fusion") and task not in (None, *MEASURES):
        raise UserError(f"model.task must be {', '.join(list(MEASURES)[:-1])} or {list(MEASURES)[-1]}, found {task}")
    devices = OmegaConf.select(cfg, "trainer.devices")
    if not isinstance(devices, int | str | Sequence) or isinstance(devices, bool):
        raise UserError(f"trainer.devices must be a number, a list of numbers or auto, found {devices}")


def check_settings(cfg: DictConfig) -> None:
    """Refuse what could only fail later.

    Raises:
        UserError: naming the setting.
    """
    _check_training(cfg)
    _check_whole(cfg, "teacher.max_epochs", least=1)
    _check_whole(cfg, "teacher.seed", least=0, most=2**32 - 1)
    for key in ("model.teacher.name", "model.student.name"):
        if not isinstance(name := OmegaConf.select(cfg, key), str):
            raise UserError(f"{key} must be a network's name such as wrn_16_2, found {name}")
    for key, words in (
        ("compile", ()),
        ("fuse_heads", ("auto",)),
        ("channels_last", ("auto",)),
        ("temperature_per_method", ()),
        ("teacher.check", ()),
        ("with_baseline", ()),
        ("keep_outputs", ()),
        ("report", ()),
        ("method.alone", ()),
    ):
        _check_flag(cfg, key, words)
    if cfg.method.alone:
        _check_alone(cfg)
    if not isinstance(cfg.teacher_cache, str):
        raise UserError(f"teacher_cache must be off, auto or a folder, found {cfg.teacher_cache}: write it as 'off'")
    if not isinstance(cfg.teacher.cache_dir, str):
        raise UserError(f"teacher.cache_dir must be a folder, found {cfg.teacher.cache_dir}")
    check_number("method.ce_weight", cfg.method.ce_weight, least=0)
    check_optimizer(cfg.teacher, "teacher.optimizer")
    _check_file(cfg, "teacher.checkpoint")


def _check_alone(cfg: DictConfig) -> None:
    """Refuse what only a run with a teacher can have."""
    for wrong, found, instead in (
        (cfg.method.terms, f"method {'+'.join(cfg.method.terms)} beside method=none", "take one of them"),
        (cfg.method.ce_weight != 1, f"method.ce_weight={cfg.method.ce_weight}", "leave it at 1"),
        (cfg.with_baseline, "with_baseline=true", "the run itself is the baseline, so leave it out"),
        (cfg.teacher.checkpoint, f"teacher.checkpoint={cfg.teacher.checkpoint}", "leave it out"),
        (cfg.teacher_cache != "off", f"teacher_cache={cfg.teacher_cache}", "leave it out"),
    ):
        if wrong:
            raise UserError(f"{found} has no effect where the student learns alone (method=none): {instead}")


def check_fusion_settings(cfg: DictConfig) -> None:
    """Refuse settings of a fusion that could only fail later.

    Raises:
        UserError: naming the setting.
    """
    if not cfg.get("encoders"):
        raise UserError("fusion= needs encoders: set encoders=linear or vector, or series for sensors")
    _check_training(cfg)
    _check_whole(cfg, "fusion.encoder_epochs", least=1)
    for key in ("fusion.frozen", "fusion.fit_temperatures", "fusion.network.joint", "fusion.network.context"):
        _check_flag(cfg, key)
    if cfg.with_baseline:
        raise UserError("with_baseline=true is of distillations, and fusion= is set: leave it out")
    check_number("fusion.expert_weight", cfg.fusion.expert_weight, least=0)
    check_optimizer(cfg.fusion.encoder_training, "fusion.encoder_training")
    if cfg.fusion.encoder_weights is not None and not cfg.fusion.frozen:
        raise UserError("fusion.encoder_weights are those of encoders that stay frozen: set fusion.frozen=true")
    _check_file(cfg, "fusion.encoder_weights")
    if cfg.fusion.student is not None and not isinstance(cfg.fusion.student, str):
        raise UserError(f"fusion.student must be the name of a modality, found {cfg.fusion.student}")


def _check_training(cfg: DictConfig) -> None:
    """What every job has."""
    _check_whole(cfg, "max_epochs", least=1)
    _check_whole(cfg, "seed", least=0, most=2**32 - 1)
    check_optimizer(cfg.optimizer, "optimizer")
    _check_file(cfg, "resume", "auto")
    _check_objective(cfg.objective)
    if cfg.checkpoint_every_steps is not None:
        _check_whole(cfg, "checkpoint_every_steps", least=1)
    if cfg.checkpoint_every_minutes is not None:
        check_number("checkpoint_every_minutes", cfg.checkpoint_every_minutes, above=0)
    if cfg.on_nan not in ("stop", "skip"):
        raise UserError(f"on_nan must be stop or skip, found {cfg.on_nan}")
    _check_devices(cfg.trainer)
    if "deepspeed" in str(cfg.trainer.strategy) and cfg.resume:
        raise UserError(
            f"resume={cfg.resume}: checkpoints of DeepSpeed are folders, from which a run does not go on: leave it "
            "out, or take trainer=ddp or fsdp"
        )


def _check_objective(name: object) -> None:
    """Refuse what is no path into ``summary.json``."""
    known = {*Summary.__dataclass_fields__, *FusionSummary.__dataclass_fields__}
    first, _, rest = str(name).partition(".")
    if first not in known:
        raise UserError(f"objective={name} is no number of summary.json: {suggest(first, known)}")
    inner: Any = _PARTS_OF_SUMMARY.get(first)
    if inner is not None and rest not in inner.__dataclass_fields__:
        raise UserError(f"objective={name} is no number of summary.json: {suggest(rest, inner.__dataclass_fields__)}")


def _check_flag(cfg: DictConfig, key: str, words: tuple[str, ...] = ()) -> None:
    value = OmegaConf.select(cfg, key)
    if not isinstance(value, bool) and value not in words:
        raise UserError(f"{key} must be {', '.join(('true', 'false', *words))}, found {value}")


def _check_file(cfg: DictConfig, key: str, *words: str) -> None:
    path = OmegaConf.select(cfg, key)
    if path is not None and path not in words and not (isinstance(path, str) and user_path(path).is_file()):
        raise UserError(f"{key}: no file at {path}; give the path of one, or leave {key} out")


def _check_whole(cfg: DictConfig, key: str, *, least: int, most: int | None = None) -> None:
    value = OmegaConf.select(cfg, key)
    check_number(key, value, least=least, most=most, whole=True)
    OmegaConf.update(cfg, key, int(value))  # 12.0 is one


def _check_devices(trainer: DictConfig) -> None:
    """Refuse more processes on a CPU than it has cores (two are always possible): they would only crowd it."""
    most = max(os.cpu_count() or 1, 2)
    if accelerator_in_use(trainer.accelerator) == "cpu" and count_processes(trainer) > most:
        raise UserError(f"trainer.devices={trainer.devices} processes on a CPU: take {most} at most")


def count_processes(trainer: DictConfig) -> int:
    """How many processes on this machine a Trainer's settings ask for."""
    devices = trainer.devices
    if devices in ("auto", -1, "-1"):
        return torch.cuda.device_count() if accelerator_in_use(trainer.accelerator) == "cuda" else 1
    if isinstance(devices, str) and "," in devices:
        return len(devices.strip(",").split(","))
    if isinstance(devices, str):
        return int(devices) if devices.isdigit() else 1  # the Trainer says what is wrong with other words
    return devices if isinstance(devices, int) else len(devices)


def all_processes(trainer: DictConfig) -> int:
    """How many they are on all machines."""
    nodes = trainer.get("num_nodes", 1)
    return count_processes(trainer) * (nodes if isinstance(nodes, int) else 1)


def check_optimizer(node: DictConfig, name: str) -> None:
    """Make an optimizer and its scheduler for nothing: their mistakes would show only after the teacher's training.

    Raises:
        UserError: naming the setting and what torch says of it.
    """
    try:
        optimizer = instantiate(node.optimizer)([nn.Parameter(torch.zeros(1))])
        if node.scheduler is not None:
            instantiate(node.scheduler)(optimizer)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: {node.optimizer._target_} or its scheduler cannot be made: {error}") from error


def read_resumable(path: Path) -> Mapping[str, Any]:
    """The content of a checkpoint to resume from.

    Raises:
        UserError: a damaged file, one that would run code, or no checkpoint of a training.
    """
    content = read_pickle(path)
    try:
        check_nesting(content)
    except ValueError as error:
        raise UserError(f"resume: {path} holds {error}: give a run's checkpoints/last.ckpt") from error
    found = content if isinstance(content, Mapping) else {}
    missing = [part for part, kind in _PARTS.items() if not isinstance(found.get(part), kind)]
    if not missing and not found["optimizer_states"]:
        missing = ["optimizer_states"]
    if not isinstance(found.get("callbacks", {}), Mapping):
        missing.append("callbacks")
    if not missing:
        checks = {"loops": _is_of_loops, "lr_schedulers": _is_of_schedules}
        missing = [part for part, fits in checks.items() if not fits(found)]
    if missing:
        raise UserError(
            f"resume: {path} is no checkpoint of a training, {', '.join(missing)} missing or no such thing: give a "
            "run's checkpoints/last.ckpt (weights alone go into teacher.checkpoint)"
        )
    return found


def _is_of_loops(checkpoint: Mapping[str, Any]) -> bool:
    try:
        return finished_epochs(checkpoint) >= 0
    except (KeyError, TypeError, ValueError):
        return False


def _is_of_schedules(checkpoint: Mapping[str, Any]) -> bool:
    schedules = checkpoint.get("lr_schedulers", [])
    if not isinstance(schedules, list) or not all(isinstance(schedule, Mapping) for schedule in schedules):
        return False
    counts = [schedule.get(name, 0) for schedule in schedules for name in ("_step_count", "last_epoch")]
    rates = [schedule.get(name, []) for schedule in schedules for name in ("base_lrs", "_last_lr")]
    if not all(isinstance(several, list) for several in rates):
        return False
    numbers = [*counts, *(rate for several in rates for rate in several)]
    return all(isinstance(number, int | float | torch.Tensor) for number in numbers)


def finished_epochs(checkpoint: Mapping[str, Any]) -> int:
    """How many epochs a training had finished when it wrote a checkpoint, at the end of an epoch or within one."""
    return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])


def check_resumable(path: Path, module: nn.Module) -> Mapping[str, Any]:
    """Refuse a checkpoint of another network, method or temperature.

    Returns:
        What the checkpoint says beside its tensors.

    Raises:
        UserError: naming the first entries that differ.
    """
    expected = module.state_dict()
    own, there = sum(tensor.nbytes for tensor in expected.values()), check_regular(path)
    if there > _SMALL + _STATES * own:
        raise UserError(
            f"resume: {path} has {decimal(there)}, and what this run trains {decimal(own)}: it is of another run; "
            "give its own checkpoints/last.ckpt, or leave resume out"
        )
    content = read_resumable(path)
    saved = content["state_dict"]
    other = sorted(map(str, saved.keys() ^ expected.keys()))
    other += [
        name for name in saved.keys() & expected.keys() if getattr(saved[name], "shape", None) != expected[name].shape
    ]
    if other:
        raise UserError(
            f"resume: {path} is of another run: {', '.join(other[:3])}{' …' if len(other) > 3 else ''} differ; resume "
            "with the model, method and temperature of that run, or leave resume out"
        )
    if not all_finite(saved.values()):
        raise UserError(
            f"resume: weights in {path} are not finite: go on from an earlier checkpoint, such as checkpoints/best.ckpt"
        )
    return {key: value for key, value in content.items() if key not in ("state_dict", "optimizer_states")}
