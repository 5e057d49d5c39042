"""The error that a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A setting, file or value that the user can put right.

    The message is one line: what was wrong, what was found, what to do. The commands print it alone, without a
    traceback, and exit with status 1.
    """


def suggest(name: str, options: Iterable[str]) -> str:
    """Name the valid options, near ones first.

    Example:
        >>> suggest("wrn_16_3", ["wrn_16_2", "vgg8"])
        'did you mean wrn_16_2? Valid: vgg8, wrn_16_2'
    """
    options = sorted(options)
    near = difflib.get_close_matches(name, options, n=3)
    valid = f"Valid: {', '.join(options)}"
    return f"did you mean {' or '.join(near)}? {valid}" if near else valid
