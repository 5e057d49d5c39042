"""The temperature's own optimizer, which goes with the student's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.optim import Optimizer

from ctkd_lightning.callbacks.plugin.base_rates import base_rate
from ctkd_lightning.callbacks.plugin.companion import Companion, OwnSettings, State
from ctkd_lightning.callbacks.plugin.processes import broadcast_values
from ctkd_lightning.errors import UserError


class CompanionOptimizer:
    """Optimise parameters beside a training's optimizers, which stay as they are.

    Each parameter is stepped right after its host, by an optimizer of the host's class and with the settings that the
    host has at that step, so that any schedule moves both alike. The host is the optimizer that holds the student's
    parameters, else the first. A parameter that one of the optimizers holds already stays with it, or, under settings
    of its own, is taken over: its gradient is kept from the optimizer that holds it.

    Gradients accumulate until the host steps, are scaled back and averaged over processes as the host's are, and take
    no part in its clipping.

    Args:
        module: that is trained; its own parameters are synchronised between processes by the strategy.
        student: gives the student's parameters.
        strategy: Lightning's; None for one process without loss scaling.
        learning_rate: of the parameters, in the place of the rate that the student's group was made with.
        weight_decay: of the parameters, in the place of the host's.
        schedulers: gives those that the strategy's training has.

    Attributes:
        without_optimizer: names of parameters that nothing steps.
    """

    def __init__(
        self,
        module: nn.Module,
        student: Callable[[], Iterable[nn.Parameter]],
        strategy: Any = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        schedulers: Callable[[], Iterable[Any]] = tuple,
    ) -> None:
        self._schedulers = schedulers
        self._module, self._student, self._strategy = module, student, strategy
        self._own = OwnSettings(learning_rate, weight_decay)
        self._parameters: dict[str, nn.Parameter] = {}
        self._optimizers: list[Optimizer] = []
        self._layout: list[int] | None = None
        self._base_rates: WeakKeyDictionary[Optimizer, list[float | None]] = WeakKeyDictionary()
        self._companions: list[Companion] = []
        self._loaded: State = {}
        self.without_optimizer: list[str] = []

    def add(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Optimise these too, from now on. In a training with several processes each of them calls this.

        Args:
            parameters: by the name under which their state is kept; a state that was loaded before is taken up.

        Raises:
            UserError: an optimizer that cannot train them, or a parameter that is in two.
        """
        new = {name: p for name, p in parameters.items() if name not in self._parameters}
        own = self._not_synchronised(new.values())
        if own and self._several_processes:
            broadcast_values(own, self._strategy)
        self._parameters |= new
        self._assign()

    def follow(self, optimizers: Sequence[Optimizer]) -> None:
        """Look for the hosts again, if the optimizers or their groups are others than at the last call.

        Args:
            optimizers: the training's.

        Raises:
            UserError: as in :meth:`add`.
        """
        layout = []
        for optimizer in optimizers:
            layout.append(id(optimizer))
            for group in getattr(optimizer, "param_groups", ()):
                layout.append(len(group["params"]))
        if layout != self._layout:
            self._optimizers, self._layout = list(optimizers), layout
            self._assign()

    def zero_grad(self, optimizer: Any) -> None:
        """Drop the gradients of the parameters that go with an optimizer whose gradients are dropped."""
        for companion in self._companions:
            if companion.outer is optimizer:
                companion.zero_grad()

    def forget_stale(self) -> None:
        """Drop gradients that are older than the student's: those of a loss whose gradients were dropped by hand."""
        for companion in self._companions:
            companion.forget_stale()

    def release(self) -> None:
        """Let go of the hosts. The state is still there, for a checkpoint after the training."""
        for companion in self._companions:
            companion.release()

    def state_dict(self) -> State:
        """State by the parameters' names; that of parameters which have not come yet is kept."""
        state = dict(self._loaded)
        for companion in self._companions:
            state |= companion.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, now or as soon as its parameters and their optimizers are there."""
        self._loaded = dict(state)
        for companion in self._companions:
            companion.load_state_dict(self._loaded)

    @property
    def _several_processes(self) -> bool:
        return getattr(self._strategy, "world_size", 1) > 1

    def _not_synchronised(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        inside = {id(parameter) for parameter in self._module.parameters()}
        return [parameter for parameter in parameters if id(parameter) not in inside]

    def _assign(self) -> None:
        """Give each parameter its host."""
        if self._layout is None:
            return
        self._loaded = self.state_dict()
        self.release()
        hosts = {id(host): (host, outer) for host, outer in map(_host_of, self._optimizers) if host is not None}
        for host, _ in hosts.values():
            self._see_rates(host)
        student = {id(p) for p in self._student()} - {id(p) for p in self._parameters.values()}
        with_student = (key for key, (host, _) in hosts.items() if _group_with(host, student) is not None)
        default = next(with_student, next(iter(hosts), None))
        left_out: dict[Any, dict[str, nn.Parameter]] = {key: {} for key in (*hosts, None)}
        held: dict[Any, dict[str, nn.Parameter]] = {key: {} for key in (*hosts, None)}
        for name, parameter in self._parameters.items():
            holder = self._holder(name, parameter)
            if holder is None:
                left_out[default][name] = parameter
            elif self._own:
                held[id(_host_of(holder)[0])][name] = parameter
        self.without_optimizer = [name for name, parameter in left_out[None].items() if parameter.requires_grad]
        former = {id(companion.host): companion for companion in self._companions}
        self._companions = []
        for key, (host, outer) in hosts.items():
            if left_out[key] or held[key]:
                group = self._group_of(host, student)
                rate = self._base_rates[host][group]
                companion = Companion(host, outer, group, rate, left_out[key], held[key], self._own, self._scaler)
                companion.load_state_dict(self._loaded)
                if key in former:
                    companion.replace(former[key])
                if self._several_processes:
                    own = self._not_synchronised([*left_out[key].values(), *held[key].values()])
                    companion.average(own, self._strategy)
                self._companions.append(companion)

    def _see_rates(self, host: Optimizer) -> None:
        """Remember the rates that the groups were made with, at first sight: later somebody may have changed them."""
        seen = self._base_rates.setdefault(host, [])
        if len(seen) < len(host.param_groups):
            schedulers = [*self._schedulers(), *vars(self._module).values()]  # some modules step theirs by hand
            seen += [base_rate(host, group, schedulers) for group in host.param_groups[len(seen) :]]

    def _group_of(self, host: Optimizer, student: set[int]) -> int:
        """The host's group that has the student's parameters, else the first that has others than ours."""
        ours = {id(parameter) for parameter in self._parameters.values()}
        found = _group_with(host, student)
        return (_group_with(host, _ids(host) - ours) or 0) if found is None else found

    def _holder(self, name: str, parameter: nn.Parameter) -> Optimizer | None:
        holders = [o for o in self._optimizers if _group_with(o, {id(parameter)}) is not None]
        if len(holders) > 1:
            raise UserError(
                f"{name} is in {len(holders)} optimizers, so that each step moves it {len(holders)} times: "
                "leave it to one of them in configure_optimizers"
            )
        return holders[0] if holders else None

    def _scaler(self) -> Any:
        """What scales the loss: Lightning's, else one that the module uses by hand."""
        scaler = getattr(getattr(self._strategy, "precision_plugin", None), "scaler", None)
        by_hand = (value for value in vars(self._module).values() if isinstance(value, torch.amp.GradScaler))
        return next(by_hand, None) if scaler is None else scaler


def _host_of(optimizer: Any) -> tuple[Optimizer | None, Any]:
    """What moves the parameters and can be followed, the optimizer or the one that it wraps; and the optimizer."""
    host = optimizer
    while (inner := _wrapped(host)) is not None:
        host = inner
    can_be_followed = isinstance(host, Optimizer) and hasattr(host, "_optimizer_step_post_hooks") and host.param_groups
    return (host if can_be_followed else None), optimizer


def _wrapped(optimizer: Any) -> Optimizer | None:
    inner = [value for value in vars(optimizer).values() if isinstance(value, Optimizer)]
    return inner[0] if len(inner) == 1 and inner[0] is not optimizer and _ids(inner[0]) <= _ids(optimizer) else None


def _ids(optimizer: Any) -> set[int]:
    return {id(parameter) for group in getattr(optimizer, "param_groups", ()) for parameter in group["params"]}


def _group_with(optimizer: Any, parameters: set[int]) -> int | None:
    """The first group that has one of the parameters, by their identities."""
    groups = getattr(optimizer, "param_groups", ())
    return next((i for i, group in enumerate(groups) if any(id(p) in parameters for p in group["params"])), None)
