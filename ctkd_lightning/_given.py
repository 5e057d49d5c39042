"""What a user gives the engine: methods and temperatures by name, a weight, teachers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch import nn

from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features._asking import AskedTeacher, AskTeacher
from ctkd_lightning.features.frozen import FrozenNetwork
from ctkd_lightning.features.outputs import Pick
from ctkd_lightning.features.teachers import FrozenTeachers
from ctkd_lightning.fusion.teachers import FUSION
from ctkd_lightning.methods import Method
from ctkd_lightning.temperature import Temperature

_CE_WEIGHT = 0.1  # the CTKD paper's γ


def weight_of_task(methods: Iterable[Method], given: float | None) -> float:
    """w_CE, the factor of the task's own loss, beside these methods.

    Args:
        methods: the terms.
        given: by the user; ``None`` for the default.

    Raises:
        UserError: no weight, or one beside a method that brings the cross-entropy itself.
    """
    if given is not None:
        check_number("ce_weight", given, least=0)
    own = [type(method).__name__ for method in methods if method.brings_cross_entropy and method.full_weight > 0]
    if own and given:
        raise UserError(
            f"{own[0]} brings the cross-entropy with the target itself, in its time, and ce_weight={given:g} would add "
            "it in every epoch: leave ce_weight out or set it to 0 (on the command line method.ce_weight=0)"
        )
    return (0.0 if own else _CE_WEIGHT) if given is None else given


def named_methods(method: Method | Mapping[str, Method] | nn.ModuleDict) -> dict[str, Method]:
    """The methods by name; one alone by its class's.

    Raises:
        UserError: none, no methods, or names that the losses have.
    """
    methods: Any = {type(method).__name__.lower(): method} if isinstance(method, Method) else method
    if not isinstance(methods, Mapping | nn.ModuleDict):
        raise UserError(f"method must be a Method such as KD(), or several by name, found {methods!r}")
    if not methods:
        raise UserError("method has no terms: pass at least one, for example method=KD()")
    for name, term in methods.items():
        if not isinstance(term, Method):
            raise UserError(f"method {name!r} must be a Method such as KD(), found {term!r}")
        if name in ("loss", "ce", FUSION) or not str(name).isidentifier():
            raise UserError(
                f"a method is named {name!r}: its loss is logged as train/NAME, so take a word other than loss, ce and "
                f"{FUSION}"
            )
    return dict(methods.items())


def named_temperatures(
    methods: nn.ModuleDict, temperature: Temperature | Mapping[str, Temperature] | nn.ModuleDict
) -> Temperature | nn.ModuleDict:
    """One temperature for all methods that soften, or one for each by its name.

    Raises:
        UserError: no temperature, or names that are not those of the softening methods.
    """
    if isinstance(temperature, Temperature):
        return temperature
    if not isinstance(temperature, Mapping | nn.ModuleDict):
        raise UserError(f"temperature must be a Temperature such as FixedTemperature(4.0), found {temperature!r}")
    softened = sorted(name for name, method in methods.items() if cast(Method, method).uses_temperature)
    if sorted(temperature.keys()) != softened:
        raise UserError(
            f"temperatures are given for {', '.join(sorted(temperature.keys())) or 'no method'}, and the methods that "
            f"soften logits are {', '.join(softened) or 'none'}: give one for each, or one for all"
        )
    return temperature if isinstance(temperature, nn.ModuleDict) else nn.ModuleDict(temperature)


def frozen(
    teacher: nn.Module, ask: AskTeacher | None, student: nn.Module | None, pick: Pick | None
) -> FrozenNetwork | FrozenTeachers:
    """A teacher, or several, in eval mode and without gradients, asked as the user says."""

    def freeze(network: nn.Module) -> FrozenNetwork:
        if isinstance(network, FrozenNetwork):
            return network
        return FrozenNetwork(network if ask is None else AskedTeacher(network, ask), shared=student)

    if isinstance(teacher, nn.ModuleDict):
        return FrozenTeachers({name: freeze(network) for name, network in teacher.items()}, pick)
    return freeze(teacher)
