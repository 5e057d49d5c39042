"""The rate that a group of an optimizer's parameters was made with, before any schedule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR


def base_rate(host: Optimizer, group: Mapping[str, Any], schedulers: Iterable[Any]) -> float | None:
    """The group's rate, whatever its schedule has made of it since.

    Schedulers change it when they are made already, and keep it in the group. Those that go in cycles put their own
    rates in the place of the group's: then the optimizer's default is what is left of it.

    Args:
        host: the optimizer.
        group: one of its.
        schedulers: the training's; whatever else is among them is passed by.

    Returns:
        ``None`` where the optimizer has no rate, or one of 0.
    """
    kept, default = group.get("initial_lr", group.get("lr")), host.defaults.get("lr")
    if not isinstance(default, Tensor) and _goes_in_cycles(group, schedulers):  # a tensor is changed in place
        kept = default
    rate = float(kept or default or 0.0)
    return rate or None


def _goes_in_cycles(group: Mapping[str, Any], schedulers: Iterable[Any]) -> bool:
    return any(
        isinstance(scheduler, CyclicLR | OneCycleLR) and any(group is one for one in scheduler.optimizer.param_groups)
        for scheduler in _with_their_parts(schedulers)
    )


def _with_their_parts(schedulers: Iterable[Any]) -> Iterator[LRScheduler]:
    for scheduler in schedulers:
        if isinstance(scheduler, LRScheduler):
            yield scheduler
            yield from _with_their_parts(getattr(scheduler, "_schedulers", ()))
