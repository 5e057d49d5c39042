"""The teacher that a callback is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.features.teachers import Teacher, named_teachers
from ctkd_lightning.models import load_weights

# By the names of their classes: each of Lightning's distributions has its own.
_SHARDED = {
    "FSDPStrategy": "flattens all parameters together and cuts them into pieces",
    "DeepSpeedStrategy": "takes the optimizer over and cuts all parameters into pieces",
    "ModelParallelStrategy": "cuts parameters into pieces and synchronises no others",
}
_LEAVES_OTHERS_ALONE = ("ModelParallelStrategy",)  # trains a temperature beside the module

_TRUE_PRECISIONS = ("HalfPrecision", "DoublePrecision")


def load_teacher(teacher: Teacher | str | Path | None, model: nn.Module | None) -> nn.Module | None:
    """The teacher itself, or ``model`` with the weights in the file that it names; several in one module.

    Raises:
        UserError: neither a network nor a file with a network for it, or a file that does not fit.
    """
    if isinstance(teacher, str | Path):
        if model is None:
            raise UserError(
                f"teacher {str(teacher)!r} is a file of weights: pass the network that they belong to as teacher_model="
            )
        load_weights(model, teacher)
        return model
    if model is not None:
        raise UserError("teacher_model is the network for a teacher that is a file: pass the file's path as teacher=")
    if teacher is None:
        return None
    if not isinstance(teacher, nn.Module | Mapping):
        raise UserError(f"teacher must be a module or a path, found a {type(teacher).__name__}")
    return named_teachers(teacher)


def check_same_everywhere(teacher: nn.Module, strategy: Any) -> None:
    """Refuse teachers that differ between processes; in each of them it is made anew, and nothing synchronises it.

    Raises:
        UserError: the weights' sums differ.
    """
    if getattr(strategy, "world_size", 1) == 1:
        return
    weights = [tensor.detach() for tensor in (*teacher.parameters(), *teacher.buffers())]
    sums = [torch.stack([w.double().sum(), w.double().square().sum()]) for w in weights if w.numel()]
    if not sums:
        return
    gathered = strategy.all_gather(torch.stack(sums).sum(dim=0))
    if not torch.equal(gathered, gathered[:1].expand_as(gathered)):
        raise UserError(
            "the teacher's weights differ between the processes: load the same file in each, or call seed_everything "
            "before the teacher is made"
        )


def check_strategy(strategy: Any, inside: Iterable[nn.Module], own: nn.Module | None) -> None:
    """Refuse temperatures that a sharding strategy cannot train.

    Args:
        strategy: the Trainer's.
        inside: temperatures in the module: a single number cannot be cut into pieces.
        own: the one that the callback brings, which FSDP and DeepSpeed cannot take in, if it learns.

    Raises:
        UserError: naming what serves.
    """
    names = [kind.__name__ for kind in type(strategy).__mro__]
    sharded = next((name for name in _SHARDED if name in names), None)
    if sharded is None:
        return
    if any(p.ndim == 0 for temperature in inside for p in temperature.parameters()):
        raise UserError(
            f"{sharded} {_SHARDED[sharded]}, and a learned temperature in the module is one number: use "
            "strategy='ddp', let the callback bring it with teacher= under ModelParallelStrategy, or take "
            "FixedTemperature(4.0)"
        )
    if sharded not in _LEAVES_OTHERS_ALONE and own is not None and any(True for _ in own.parameters()):
        raise UserError(
            f"{sharded} {_SHARDED[sharded]}, so that a learned temperature cannot be trained beside: use "
            "strategy='ddp' or ModelParallelStrategy (FSDP2), or with this strategy FixedTemperature(4.0) and, for "
            "several teachers, teacher_fusion='fixed'"
        )


def match_precision(engine: nn.Module, plugin: Any) -> None:
    """Convert what is no part of the module as true half or double precision converts the module.

    Args:
        engine: teacher and methods; temperatures stay in float32 under half precision.
        plugin: the Trainer's precision plugin.
    """
    if type(plugin).__name__ in _TRUE_PRECISIONS:
        plugin.convert_module(engine)
