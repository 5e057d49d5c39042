"""Words around numbers, and text that others have written."""

from __future__ import annotations

import unicodedata

_NOT_SHOWN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format (such as the order of writing), surrogates, line ends
_JOINERS = "\u200c\u200d"  # within Persian words and emoji


def counted(number: int, one: str, many: str) -> str:
    """``"1 run"``, ``"2 runs"``."""
    return f"{number} {one if number == 1 else many}"


def cpu_threads(number: int) -> str:
    """``"1 CPU thread"``, ``"2 CPU threads"``."""
    return counted(number, "CPU thread", "CPU threads")


def printable(text: str, *, lines: bool = False) -> str:
    r"""A text that cannot steer a terminal or turn a page's writing round: names come from files.

    Line ends and tabs become spaces, other control characters are written out.

    Args:
        text: of any origin.
        lines: leave line ends and tabs.

    Example:
        >>> printable("cat\x1b[2J\ndog")
        'cat\\x1b[2J dog'
    """
    if text.isprintable():
        return text
    return "".join(_printable(character, lines) for character in text)


def _printable(character: str, lines: bool) -> str:
    if character in "\n\t":
        return character if lines else " "
    if character in _JOINERS or unicodedata.category(character) not in _NOT_SHOWN:
        return character
    return character.encode("unicode_escape").decode("ascii")
