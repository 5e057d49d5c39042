"""The error that a user can mend, and the check that all layers share."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

from ctkd_lightning._words import printable


class UserError(ValueError):
    """A setting, file or value that the user can put right.

    The message is one line: what was wrong, what was found, what to do. The commands print it alone, without a
    traceback, and exit with status 1. What it quotes from files cannot steer the terminal.

    Args:
        message: the line.
        example: lines of code that would be right, below it.
    """

    def __init__(self, message: str = "", *, example: str = "") -> None:
        super().__init__(printable(message) + example)


def suggest(name: str, options: Iterable[str], otherwise: str | None = None) -> str:
    """Name the options that are near a wrong one, and then all of them.

    Args:
        name: what was given.
        options: what is valid.
        otherwise: what to say in the place of all options, where they are too many to name.

    Example:
        >>> suggest("wrn_16_3", ["wrn_16_2", "vgg8"])
        'did you mean wrn_16_2? Valid: vgg8, wrn_16_2'
    """
    options = sorted(options)
    near = difflib.get_close_matches(name, options, n=3)
    valid = f"Valid: {', '.join(options)}" if otherwise is None else otherwise
    return f"did you mean {' or '.join(near)}? {valid}" if near else valid


def check_number(
    what: str,
    value: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    whole: bool = False,
) -> None:
    """Refuse a setting that is no finite number in its range.

    Args:
        what: the setting's name, with its owner's: ``"DKD's alpha"``.
        value: what was given.
        least: the least value allowed.
        most: the greatest.
        above: what the value must exceed.
        below: what it must stay under.
        whole: whether it must be a whole number; 20.0 is one.

    Raises:
        UserError: saying what is allowed and what was found.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if (
        number
        and abs(value) < math.inf  # false for NaN
        and (least is None or value >= least)
        and (most is None or value <= most)
        and (above is None or value > above)
        and (below is None or value < below)
        and (not whole or value % 1 == 0)
    ):
        return
    bounds = {"from": least, "to": most, "above": above, "below": below}
    limits = " and ".join(f"{word} {bound:.10g}" for word, bound in bounds.items() if bound is not None)
    limits = limits.replace(" and to ", " to ")
    kind = "whole" if whole else "finite"
    raise UserError(f"{what} must be a {kind} number{limits and ' '}{limits}, found {value!r}")
