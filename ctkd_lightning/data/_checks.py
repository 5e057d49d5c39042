"""Checks of a data module's settings."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from ctkd_lightning.errors import UserError, check_number


def whole_number(setting: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number, as an ``int``.

    Raises:
        UserError: naming the setting and what it may be.
    """
    check_number(setting, value, least=least, most=most, whole=True)
    return int(value)


def flag(setting: str, value: Any, *words: str) -> Any:
    """A setting that is true, false or one of ``words``.

    Raises:
        UserError: naming the setting and what it may be.
    """
    if not isinstance(value, bool) and value not in words:
        options = ["true", "false", *words]
        raise UserError(f"{setting} must be {', '.join(options[:-1])} or {options[-1]}, found {value!r}")
    return value


def part_of_training(setting: str, value: Any) -> int | float:
    """A part of the training set: a whole number counts, any other is a fraction.

    Raises:
        UserError: naming the setting and what it may be.
    """
    if isinstance(value, Integral):
        return whole_number(setting, value, least=0)
    check_number(f"{setting}, unless it is a count,", value, least=0, below=1)
    return float(value)


def channel_values(setting: str, values: Sequence[Any], above: float | None = None) -> list[float]:
    """Three numbers, one a channel.

    Raises:
        UserError: naming the setting and what it may be.
    """
    if len(values) != 3:
        raise UserError(f"{setting} needs three values, one a channel, found {values}")
    for value in values:
        check_number(f"{setting} of each channel", value, above=above)
    return [float(value) for value in values]
