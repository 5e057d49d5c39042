"""Let the schedulers of an optimizer know of one more parameter group."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

# What torch's schedulers keep, or put into a group, for each group: rates scale with the group's rate …
RATE_KEYS = ("lr", "initial_lr", "max_lr", "min_lr", "base_lr", "swa_lr")
_RATE_LISTS = ("base_lrs", "max_lrs", "min_lrs", "_last_lr")
# … and the rest is the same for all.
_OTHER_LISTS = ("lr_lambdas", "base_momentums", "max_momentums")
_NESTED = "_schedulers"  # of SequentialLR and ChainedScheduler


def add_group(scheduler: Any, groups: int, ratio: float) -> None:
    """Add an entry to each list that a scheduler keeps by group.

    Args:
        scheduler: of torch, or one like them.
        groups: how many groups the optimizer had.
        ratio: the new group's rate, relative to the first group's.
    """
    for name, values in _lists(vars(scheduler), groups):
        first = values[0]
        values.append(first * ratio if name in _RATE_LISTS else first)
    for nested in getattr(scheduler, _NESTED, []):
        add_group(nested, groups, ratio)


def drop_group_state(state: Mapping[str, Any], groups: int) -> dict[str, Any]:
    """A scheduler's saved state, without the last of ``groups`` groups."""
    state = dict(state)
    state.update({name: values[:-1] for name, values in _lists(state, groups)})
    if _NESTED in state:
        state[_NESTED] = [drop_group_state(nested, groups) for nested in state[_NESTED]]
    return state


def add_group_state(state: Mapping[str, Any], scheduler: Any, groups: int, rate: float | Tensor) -> dict[str, Any]:
    """A scheduler's saved state, with one more group, as the scheduler itself has it.

    Args:
        state: of ``groups`` groups.
        scheduler: that :func:`add_group` has enlarged.
        groups: how many groups the state has.
        rate: the group's latest.
    """
    state = dict(state)
    for name, values in _lists(state, groups):
        if name == "lr_lambdas":  # the state of those that are objects, of which the new group shares the first one's
            last = copy.deepcopy(values[0])
        else:
            last = rate if name == "_last_lr" else getattr(scheduler, name)[-1]
        state[name] = [*values, last]
    if _NESTED in state:
        pairs = zip(state[_NESTED], getattr(scheduler, _NESTED), strict=True)
        state[_NESTED] = [add_group_state(nested, inner, groups, rate) for nested, inner in pairs]
    return state


def _lists(values: Mapping[str, Any], groups: int) -> Iterator[tuple[str, list[Any]]]:
    for name in (*_RATE_LISTS, *_OTHER_LISTS):
        entry = values.get(name)
        if isinstance(entry, list) and len(entry) == groups:
            yield name, entry
