"""Make an optimizer like another one, for other parameters."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ctkd_lightning.errors import UserError

_TRIAL_STEPS = 2  # the second one meets the state that the first has made
_Group = Mapping[str, Any]


@dataclass(frozen=True)
class LikeOptimizer:
    """An optimizer with the settings of another.

    Attributes:
        optimizer: with one group.
        step: its step, without torch's label for the profiler and the hooks of all optimizers, which cost as much again
            as a step of one number.
        followed: names of the group's settings that the other one's group has too, without those that a step itself
            counts or adapts.
        counted: names of those, which each optimizer keeps for its own parameters.
        substitute_for: why it is of another class than the other one; None where it is of the same.
    """

    optimizer: Optimizer
    step: Callable[[], Any]
    followed: tuple[str, ...]
    counted: tuple[str, ...] = ()
    substitute_for: str | None = None


def optimizer_like(host: Optimizer, group: _Group, parameters: Sequence[nn.Parameter]) -> LikeOptimizer:
    """An optimizer of the class and settings of ``host``, or of the nearest plain one that can train the parameters.

    Whether the class can is found by trying, on stand-ins of the parameters' shapes: some take matrices only, or sparse
    gradients, or are wrappers of another optimizer.

    Args:
        host: the optimizer to resemble.
        group: of its groups the one whose settings are taken.
        parameters: what to optimise.

    Raises:
        UserError: the class cannot train them, and has no learning rate for another one.
    """
    settings = {k: v for k, v in group.items() if k not in ("params", "param_names")}
    reason = ""
    for variant, make in product(_variants(host, settings, parameters), (_by_constructor, _by_pickling)):
        try:
            counted = _try(make, host, variant, _stand_ins(parameters))
            optimizer = make(host, variant, parameters)
        except Exception as error:  # whatever a foreign class raises says that it does not serve
            if variant is settings:
                reason = reason or (str(error) or type(error).__name__).splitlines()[0]
            continue
        optimizer.param_groups[0].update({k: host.defaults[k] for k in counted & host.defaults.keys()})
        return _like(optimizer, {k: v for k, v in settings.items() if variant[k] is v}, counted, None)
    name = type(host).__name__
    if not isinstance(settings.get("lr"), int | float | Tensor):
        raise UserError(
            f"{name} cannot train a learned temperature ({reason}) and has no learning rate for a plain optimizer in "
            "its place: give it lr=, or take FixedTemperature"
        )
    return _like(_plain(settings, parameters), settings, frozenset(), f"{name} cannot train them ({reason})")


def _variants(host: Optimizer, settings: _Group, parameters: Sequence[nn.Parameter]) -> list[_Group]:
    """Where the choice is open, what is quickest for a few numbers comes first.

    One kernel for a whole step takes half the time of Adam's many operations. SGD's two or three take less than the
    kernel on a CPU, where torch chooses them too, but takes its time to choose at each step.
    """
    is_open = all(settings.get(key, False) is None for key in ("fused", "foreach"))
    if not is_open or isinstance(settings.get("lr"), Tensor):
        return [settings]
    few = isinstance(host, torch.optim.SGD) and all(parameter.device.type == "cpu" for parameter in parameters)
    return [{**settings, **({"foreach": False, "fused": False} if few else {"fused": True})}, settings]


def _like(optimizer: Optimizer, settings: _Group, counted: frozenset[str], reason: str | None) -> LikeOptimizer:
    step: Any = type(optimizer).step
    step = step.__wrapped__ if getattr(step, "hooked", False) and hasattr(step, "__wrapped__") else step
    followed = tuple(key for key in optimizer.param_groups[0] if key in settings and key not in counted)
    kept = tuple(key for key in optimizer.param_groups[0] if key in counted)
    return LikeOptimizer(optimizer, MethodType(step, optimizer), followed, kept, reason)


def _by_constructor(host: Optimizer, settings: _Group, parameters: Sequence[nn.Parameter]) -> Optimizer:
    """Some make their state at once, so that this is tried first."""
    accepted: set[str] = set()
    for kind in type(host).__mro__:
        if "__init__" not in vars(kind):
            continue
        arguments = inspect.signature(vars(kind)["__init__"]).parameters.values()
        accepted |= {argument.name for argument in arguments}
        if all(argument.kind != argument.VAR_KEYWORD for argument in arguments):
            break
    known = {**host.defaults, **settings}
    optimizer = type(host)(list(parameters), **{k: known[k] for k in accepted & known.keys()})
    if [id(p) for g in optimizer.param_groups for p in g["params"]] != [id(p) for p in parameters]:
        raise TypeError("its constructor takes other parameters")
    return optimizer


def _by_pickling(host: Optimizer, settings: _Group, parameters: Sequence[nn.Parameter]) -> Optimizer:
    """As torch restores an optimizer of any class, whatever its constructor takes."""
    optimizer = type(host).__new__(type(host))
    group = {**settings, **{k: v for k, v in host.defaults.items() if k not in settings}, "params": list(parameters)}
    optimizer.__setstate__({"defaults": dict(host.defaults), "state": defaultdict(dict), "param_groups": [group]})
    return optimizer


def _plain(settings: _Group, parameters: Sequence[nn.Parameter]) -> Optimizer:
    """SGD, or AdamW where the other one normalises its updates too, as its ε tells: then the rates mean the same."""
    common = {"lr": settings["lr"], "weight_decay": settings.get("weight_decay", 0.0)}
    if "eps" not in settings:
        return torch.optim.SGD(list(parameters), momentum=settings.get("momentum", 0.0), **common)
    betas = settings.get("betas")
    pair = betas if isinstance(betas, tuple | list) and len(betas) == 2 else (0.9, 0.999)
    return torch.optim.AdamW(list(parameters), betas=(pair[0], pair[1]), **common)


def _try(
    make: Callable[..., Optimizer], host: Optimizer, settings: _Group, parameters: Sequence[nn.Parameter]
) -> frozenset[str]:
    """Take steps, and return the settings that a step changes by itself."""
    optimizer = make(host, settings, parameters)
    (group,) = optimizer.param_groups
    group.update(settings)
    run = _like(optimizer, settings, frozenset(), None).step
    for _ in range(_TRIAL_STEPS):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 1e-3)
        run()
    return frozenset(key for key, value in settings.items() if group[key] is not value)


def _stand_ins(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    shapes = {(p.shape, p.dtype, p.device): p for p in parameters}
    return [nn.Parameter(torch.zeros_like(p)) for p in shapes.values()]
