"""Parameters that are stepped right after another optimizer's step, the host's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from ctkd_lightning.callbacks.plugin.optimizer_like import LikeOptimizer, optimizer_like
from ctkd_lightning.callbacks.plugin.processes import average_gradients
from ctkd_lightning.errors import UserError

State = dict[str, dict[str, Any]]  # by the parameter's name


class OwnSettings:
    """What differs from the host's settings.

    Args:
        learning_rate: in the place of the rate that the host's group was made with.
        weight_decay: in the place of the host's.
    """

    def __init__(self, learning_rate: float | None = None, weight_decay: float | None = None) -> None:
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def __bool__(self) -> bool:
        return self.learning_rate is not None or self.weight_decay is not None

    def check(self, host: Optimizer, group: Mapping[str, Any], base_rate: float | None) -> None:
        """Look whether a host can be followed with them.

        Args:
            host: the optimizer.
            group: whose settings are taken.
            base_rate: the rate that this was made with.

        Raises:
            UserError: it cannot.
        """
        name = type(host).__name__
        if isinstance(host, torch.optim.LBFGS):
            raise UserError(
                "LBFGS cannot train a learned temperature: its line search needs one function that all parameters "
                "lower, and the temperature raises the loss; take another optimizer, or FixedTemperature"
            )
        if self.learning_rate is not None and not base_rate:
            raise UserError(
                f"learning_rate stands in the place of the rate that {name} was made with, and that is "
                f"{group.get('lr')}: leave learning_rate out, or give {name} a rate"
            )
        if self.weight_decay is not None and "weight_decay" not in group:
            raise UserError(f"weight_decay has no effect with {name}, which has none: leave it out")

    def ratio(self, base_rate: float | None) -> float:
        """Of the parameters' rate to the host's."""
        return 1.0 if self.learning_rate is None or not base_rate else self.learning_rate / base_rate


class Companion:
    """Parameters, and an optimizer like the host that steps them after it.

    Args:
        host: is followed.
        outer: the training's optimizer: the host, or a wrapper around it.
        group: number of the host's group whose settings are taken.
        base_rate: the rate that this group was made with.
        left_out: parameters by name that the host does not hold.
        held: parameters by name that it holds: their gradients are kept from it.
        own: settings that differ.
        find_scaler: what scales the loss, at the first step.

    Raises:
        UserError: a host that cannot be followed.
    """

    def __init__(
        self,
        host: Optimizer,
        outer: Any,
        group: int,
        base_rate: float | None,
        left_out: Mapping[str, nn.Parameter],
        held: Mapping[str, nn.Parameter],
        own: OwnSettings,
        find_scaler: Callable[[], Any],
    ) -> None:
        own.check(host, host.param_groups[group], base_rate)
        self.host, self.outer, self._group = host, outer, group
        self._named = {**left_out, **held}
        self._parameters = list(self._named.values())
        self._left_out, self._held = list(left_out.values()), list(held.values())
        self._ids = {id(parameter) for parameter in self._parameters}
        self._own, self._ratio = own, own.ratio(base_rate)
        self._find_scaler = find_scaler
        self._scaler: Any = None
        self._kept: dict[nn.Parameter, Tensor] = {}  # gradients of the held ones, while the host steps
        self._averaged: list[nn.Parameter] = []
        self._strategy: Any = None
        self._like: LikeOptimizer | None = None  # made at the first step: some hosts are not ready before
        self._followed: tuple[str, ...] = ()
        self._loaded: State = {}
        self._hooks = [host.register_step_post_hook(self._after_step)]
        if held:
            self._hooks.append(host.register_step_pre_hook(self._before_step))

    def average(self, parameters: list[nn.Parameter], strategy: Any) -> None:
        """Average the gradients of these over the processes before each step."""
        self._averaged, self._strategy = parameters, strategy

    def replace(self, former: Companion) -> None:
        """Take the place of another one of the same host, also in the midst of the host's step."""
        self._kept = former._kept

    def zero_grad(self) -> None:
        """Drop the gradients; those of the parameters that the host holds are dropped with its own."""
        for parameter in self._left_out:
            parameter.grad = None

    def forget_stale(self) -> None:
        """Drop the gradients if the host has none."""
        if any(parameter.grad is not None for parameter in self._left_out) and all(
            parameter.grad is None or id(parameter) in self._ids
            for group in self.host.param_groups
            for parameter in group["params"]
        ):
            self.zero_grad()

    def release(self) -> None:
        """Let go of the host."""
        for hook in self._hooks:
            hook.remove()

    def state_dict(self) -> State:
        """What the optimizer keeps, by the parameters' names; nothing before its first step."""
        if self._like is None:
            return {}
        optimizer, group = self._like.optimizer, self._like.optimizer.param_groups[0]
        shared = {"kind": type(optimizer).__name__, "group": {key: group[key] for key in self._like.counted}}
        states = ((name, optimizer.state.get(parameter)) for name, parameter in self._named.items())
        return {name: {**shared, "state": state} for name, state in states if state}

    def load_state_dict(self, state: State) -> None:
        """Go on from a state at the next step; afresh where there is none."""
        self._like, self._loaded = None, {name: state[name] for name in self._named if name in state}

    def _before_step(self, host: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._keep_gradients()
            return None

        def closure_and_keep() -> Any:  # the closure has the backward pass
            loss = closure()
            self._keep_gradients()
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": closure_and_keep}
        return (args[0], closure_and_keep, *args[2:]), kwargs

    def _keep_gradients(self) -> None:
        for parameter in self._held:
            if parameter.grad is not None:
                self._kept[parameter], parameter.grad = parameter.grad, None

    def _after_step(self, host: Optimizer, args: Any, kwargs: Any) -> None:
        if self._kept:
            for parameter, gradient in self._kept.items():
                parameter.grad = gradient
            self._kept.clear()
        if self._averaged:
            average_gradients(self._averaged, self._strategy)
        if all(parameter.grad is None for parameter in self._parameters):
            return
        like = self._like or self._make()
        source, group = host.param_groups[self._group], like.optimizer.param_groups[0]
        for key in self._followed:
            group[key] = source[key]
        if self._ratio != 1.0:
            group["lr"] = source["lr"] * self._ratio
        if self._scaler is None:
            like.step()
        else:
            self._step_scaled(like)
        for parameter in self._parameters:
            parameter.grad = None

    def _make(self) -> LikeOptimizer:
        self._scaler = self._find_scaler()
        like = self._like = optimizer_like(self.host, self.host.param_groups[self._group], self._parameters)
        own_decay = self._own.weight_decay is not None
        if own_decay:
            like.optimizer.param_groups[0]["weight_decay"] = self._own.weight_decay
        self._followed = tuple(key for key in like.followed if not (own_decay and key == "weight_decay"))
        if like.substitute_for is not None:
            rank_zero_warn(
                f"{', '.join(self._named)}: trained by {type(like.optimizer).__name__} at the student's rate, since "
                f"{like.substitute_for}"
            )
        self._take_up(like)
        return like

    def _take_up(self, like: LikeOptimizer) -> None:
        """Put a state into a new optimizer, with torch's own care for devices and types."""
        kind, loaded, self._loaded = type(like.optimizer).__name__, self._loaded, {}
        foreign = [name for name, entry in loaded.items() if entry.get("kind") not in (None, kind)]
        if foreign:
            rank_zero_warn(
                f"{', '.join(foreign)}: the state is one of {loaded[foreign[0]]['kind']} and the optimizer is {kind}, "
                "which starts afresh"
            )
        state = like.optimizer.state_dict()
        for number, (name, parameter) in enumerate(self._named.items()):
            if name in loaded and name not in foreign:
                state["state"][number] = loaded[name]["state"]
                state["param_groups"][0].update(loaded[name].get("group", {}))
            elif parameter in self.host.state and like.substitute_for is None:  # the host stepped it until now
                state["state"][number] = copy.deepcopy(self.host.state[parameter])
        if state["state"]:
            like.optimizer.load_state_dict(state)

    def _step_scaled(self, like: LikeOptimizer) -> None:
        """Scale the gradients back as the scaler does the host's, which it knows, and without waiting."""
        found = getattr(self.host, "found_inf", None)  # fused ones unscale by themselves, and skip by this
        held_scale = None if found is None else getattr(self.host, "grad_scale", None)
        for parameters, scale in ((self._left_out, self._scaler._scale), (self._held, held_scale)):
            for gradient in (parameter.grad for parameter in parameters if parameter.grad is not None):
                if scale is not None:
                    gradient.div_(scale)
                gradient.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
                if found is not None:
                    gradient.mul_(1.0 - found)
        if found is None:
            like.step()
            return
        like.optimizer.found_inf = found  # type: ignore[attr-defined]  # as the scaler does
        like.step()
        del like.optimizer.found_inf  # type: ignore[attr-defined]
