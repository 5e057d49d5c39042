"""Whether what was read from a file is of the types that its class says."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def of_its_types(record: Any) -> bool:
    """Whether all fields of a dataclass instance, and those of the instances in it, are of their types.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Best:
        ...     top1: float | None
        >>> of_its_types(Best(1)), of_its_types(Best(None)), of_its_types(Best("1"))
        (True, True, False)
    """
    hints = get_type_hints(type(record))
    return all(_fits(getattr(record, field.name), hints[field.name]) for field in fields(record))


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is Literal:
        return any(value == each for each in arguments)
    if origin is list:
        return isinstance(value, list) and all(_fits(each, arguments[0]) for each in value)
    if origin is dict:
        key, inner = arguments
        return isinstance(value, dict) and all(_fits(k, key) and _fits(v, inner) for k, v in value.items())
    if is_dataclass(hint):
        return isinstance(value, hint) and of_its_types(value)  # type: ignore[arg-type]
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    return isinstance(value, hint)
