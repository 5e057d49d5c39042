"""See to it that the temperatures' parameters are optimised, once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ctkd_lightning.callbacks.schedules import RATE_KEYS, add_group, add_group_state, drop_group_state
from ctkd_lightning.errors import UserError

_Checkpoint = dict[str, Any]


class OptimizerExtension:
    """Parameters given to an optimizer that was made without them, or without settings of their own.

    With the student's settings they join its first group; with settings of their own they get a group, which follows
    the same schedule. In checkpoints the optimizer and its schedulers keep the layout that they were made with, so that
    a run without the callback can go on from them, and this one from those of a run without it.

    Args:
        optimizer: as ``configure_optimizers`` made it.
        schedulers: of this optimizer.
        parameters: by name.
        learning_rate: of these parameters, in the place of the rate that the optimizer was made with: a schedule
            moves both alike.
        weight_decay: of these parameters.

    Raises:
        UserError: an optimizer that cannot train them.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Iterable[Any],
        parameters: Mapping[str, nn.Parameter],
        learning_rate: float | None = None,
        weight_decay: float | None = None,
    ) -> None:
        if isinstance(optimizer, torch.optim.LBFGS):
            raise UserError(
                "LBFGS cannot train a learned temperature: its line search needs one function that all parameters "
                "lower, and the temperature raises the loss; take another optimizer, or FixedTemperature"
            )
        self.optimizer, self.schedulers, self.parameters = optimizer, list(schedulers), dict(parameters)
        self._made = [_members(group) for group in optimizer.param_groups]
        if learning_rate is None and weight_decay is None:
            _append(optimizer.param_groups[0], parameters)
            return
        for group in optimizer.param_groups:
            _remove(group, parameters)
        reference = float(optimizer.defaults.get("lr") or optimizer.param_groups[0]["lr"])
        ratio = 1.0 if learning_rate is None else learning_rate / reference
        for scheduler in self.schedulers:
            add_group(scheduler, len(self._made), ratio)
        optimizer.add_param_group(_own_group(optimizer.param_groups[0], parameters, ratio, weight_decay))

    @property
    def _has_group(self) -> bool:
        return len(self.optimizer.param_groups) > len(self._made)

    def drop(self, saved: _Checkpoint) -> tuple[_Checkpoint, _Checkpoint]:
        """Split a saved state into that of the optimizer as it was made, and what is there for our parameters."""
        numbers = _numbers(self.optimizer.param_groups, saved["param_groups"])
        made = {numbers[id(p)]: new for new, p in enumerate(_flat(self._made))}
        groups = [
            {**group, **members, "params": [made[numbers[id(p)]] for p in members["params"]]}
            for group, members in zip(saved["param_groups"], self._made, strict=False)  # ours is the last
        ]
        state = {made[number]: entry for number, entry in saved["state"].items() if number in made}
        ours: _Checkpoint = {"state": {}}
        for name, parameter in self.parameters.items():
            number = numbers[id(parameter)]
            if number not in made and number in saved["state"]:
                ours["state"][name] = saved["state"][number]
        if self._has_group:
            ours["group"] = {k: v for k, v in saved["param_groups"][-1].items() if k not in ("params", "param_names")}
        return {**saved, "state": state, "param_groups": groups}, ours

    def add(self, saved: _Checkpoint, ours: Mapping[str, Any]) -> _Checkpoint:
        """The other way round. A state of another layout comes back as it is: torch explains what differs."""
        if [len(g["params"]) for g in saved["param_groups"]] != [len(g["params"]) for g in self._made]:
            return saved
        numbers = _numbers(self._made, saved["param_groups"])
        free = count(max(numbers.values(), default=-1) + 1)
        state = dict(saved["state"])
        for name, parameter in self.parameters.items():
            if id(parameter) not in numbers:
                numbers[id(parameter)] = next(free)
                if name in ours.get("state", {}):
                    state[numbers[id(parameter)]] = ours["state"][name]
        live = self.optimizer.param_groups
        sources = [*saved["param_groups"], *([ours.get("group", live[-1])] if self._has_group else [])]
        groups = [
            {**source, **_members(group), "params": [numbers[id(p)] for p in group["params"]]}
            for source, group in zip(sources, live, strict=True)
        ]
        return {**saved, "state": state, "param_groups": groups}

    def drop_from_schedule(self, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """A scheduler's saved state, as of the optimizer as it was made."""
        return drop_group_state(saved, len(self._made) + 1) if self._has_group else saved

    def add_to_schedule(self, saved: Mapping[str, Any], scheduler: Any, ours: Mapping[str, Any]) -> Mapping[str, Any]:
        """The other way round."""
        if not self._has_group:
            return saved
        rate = ours.get("group", self.optimizer.param_groups[-1])["lr"]
        return add_group_state(saved, scheduler, len(self._made), rate)


class OptimizedParameters:
    """Learned parameters, each in one optimizer.

    Args:
        optimizers: the training's.
        schedulers: all of theirs, in the order of the checkpoint.
        parameters: what to optimise, by name; those that need no gradient are left alone.
        beside: the student's parameters: of several optimizers the one that has them is taken.
        learning_rate: as in :class:`OptimizerExtension`; None for the student's.
        weight_decay: likewise.

    Attributes:
        homeless: names for which there was no optimizer.

    Raises:
        UserError: an optimizer that cannot train them, or a parameter that is in two.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        schedulers: Sequence[Any],
        parameters: Mapping[str, nn.Parameter],
        beside: Iterable[nn.Parameter] = (),
        learning_rate: float | None = None,
        weight_decay: float | None = None,
    ) -> None:
        self._schedulers = list(schedulers)
        self._extensions: dict[int, OptimizerExtension] = {}
        self.homeless: list[str] = []
        default = _home_of(optimizers, beside)
        places: dict[int, dict[str, nn.Parameter]] = {}
        for name, parameter in parameters.items():
            found = [i for i, o in enumerate(optimizers) if _holds(o, parameter)]
            if len(found) > 1:
                raise UserError(
                    f"{name} is in {len(found)} optimizers, so that each step moves it {len(found)} times: "
                    "leave it to one of them in configure_optimizers"
                )
            if not parameter.requires_grad or (found and learning_rate is None and weight_decay is None):
                continue
            if not found and default is None:
                self.homeless.append(name)
            else:
                places.setdefault(found[0] if found else default or 0, {})[name] = parameter
        for place, members in places.items():
            own = [s for s in schedulers if s.optimizer is optimizers[place]]
            self._extensions[place] = OptimizerExtension(optimizers[place], own, members, learning_rate, weight_decay)

    def drop_from(self, checkpoint: _Checkpoint) -> dict[str, Any]:
        """Bring a checkpoint to the layout of a run without the callback.

        Returns:
            What it does not hold then, for :meth:`add_to`.
        """
        kept = {}
        for place, extension in self._extensions.items():
            states = checkpoint.get("optimizer_states", [])
            if place < len(states) and "param_groups" in states[place]:
                states[place], kept[str(place)] = extension.drop(states[place])
                schedules = checkpoint.get("lr_schedulers", [])
                for index in self._schedules(extension, schedules):
                    schedules[index] = extension.drop_from_schedule(schedules[index])
        return kept

    def add_to(self, checkpoint: _Checkpoint, kept: Mapping[str, Any]) -> None:
        """Bring a checkpoint of a run without the callback to the layout of this one."""
        for place, extension in self._extensions.items():
            states, ours = checkpoint.get("optimizer_states", []), kept.get(str(place), {})
            if place < len(states) and "param_groups" in states[place]:
                states[place] = extension.add(states[place], ours)
                schedules = checkpoint.get("lr_schedulers", [])
                for index in self._schedules(extension, schedules):
                    schedules[index] = extension.add_to_schedule(schedules[index], self._schedulers[index], ours)

    def _schedules(self, extension: OptimizerExtension, saved: list[Any]) -> list[int]:
        return [i for i, s in enumerate(self._schedulers[: len(saved)]) if s.optimizer is extension.optimizer]


def _home_of(optimizers: Sequence[Optimizer], beside: Iterable[nn.Parameter]) -> int | None:
    usable = [i for i, optimizer in enumerate(optimizers) if optimizer.param_groups]
    student = {id(p) for p in beside}
    with_student = [i for i in usable if any(id(p) in student for p in _flat(optimizers[i].param_groups))]
    return next(iter(with_student + usable), None)


def _holds(optimizer: Optimizer, parameter: nn.Parameter) -> bool:
    return any(p is parameter for p in _flat(optimizer.param_groups))


def _flat(groups: Iterable[Mapping[str, Any]]) -> list[Any]:
    return list(chain.from_iterable(group["params"] for group in groups))


def _numbers(groups: Iterable[Mapping[str, Any]], saved: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """The number that each parameter has in a saved state, by its identity."""
    return {id(p): number for p, number in zip(_flat(groups), _flat(saved), strict=True)}


def _members(group: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {key: list(group[key]) for key in ("params", "param_names") if key in group}


def _append(group: dict[str, Any], parameters: Mapping[str, nn.Parameter]) -> None:
    group["params"].extend(parameters.values())
    if "param_names" in group:
        group["param_names"].extend(parameters)


def _remove(group: dict[str, Any], parameters: Mapping[str, nn.Parameter]) -> None:
    ours = {id(p) for p in parameters.values()}
    kept = [i for i, p in enumerate(group["params"]) if id(p) not in ours]
    group.update({key: [values[i] for i in kept] for key, values in _members(group).items()})


def _own_group(
    first: Mapping[str, Any], parameters: Mapping[str, nn.Parameter], ratio: float, weight_decay: float | None
) -> dict[str, Any]:
    group: dict[str, Any] = {k: _scaled(v, ratio) if k in RATE_KEYS else v for k, v in first.items()}
    group["params"] = list(parameters.items()) if group.pop("param_names", None) else list(parameters.values())
    if weight_decay is not None:
        group["weight_decay"] = weight_decay
    return group


def _scaled(rate: float | Tensor, ratio: float) -> float | Tensor:
    return rate * ratio  # a new tensor where the rate is one
