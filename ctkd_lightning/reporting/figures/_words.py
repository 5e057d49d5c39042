"""Means, and the words in which captions tell them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray


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


def class_name(names: Sequence[str], number: int) -> str:
    """The name of a class; its number where there are no names."""
    return names[number] if number < len(names) else str(number)


def known_mean(stacked: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the first dimension, of what is known; NaN where nothing is."""
    known = np.isfinite(stacked)
    with np.errstate(invalid="ignore"):
        return np.where(known, stacked, 0.0).sum(axis=0) / known.sum(axis=0)
