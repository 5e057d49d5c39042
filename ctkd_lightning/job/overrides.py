"""What the user set on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence


def sets(overrides: Sequence[str], key: str) -> bool:
    """Whether the user set something at or below a key.

    Example:
        >>> sets(["model.student.name=vgg8", "seed=2"], "model")
        True
    """
    return any(re.match(rf"[+~]*{re.escape(key)}[.=]", override) for override in overrides)
