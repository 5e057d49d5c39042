"""Numbers in captions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev


def spread(values: Sequence[float], digits: int = 2) -> str:
    """``"1.20 ± 0.05"``: mean and standard deviation; of one value, or of equal ones, the value; a dash of none."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return "–"
    deviation = f" ± {stdev(known):.{digits}f}" if len(set(known)) > 1 else ""
    return f"{fmean(known):.{digits}f}{deviation}"


def counted(number: int, one: str, many: str) -> str:
    """``"1 run"``, ``"2 runs"``."""
    return f"{number} {one if number == 1 else many}"
