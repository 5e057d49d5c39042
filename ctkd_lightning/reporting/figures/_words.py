"""Means, and the words in which captions tell them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import SupportsFloat

import numpy as np
from numpy.typing import ArrayLike, NDArray


def spread(values: Iterable[SupportsFloat], digits: int = 2) -> str:
    """``"1.20 ± 0.05"``: mean and standard deviation; of one value, or of equal ones, the value; a dash of none."""
    known = [number for value in values if math.isfinite(number := float(value))]
    if not known:
        return "–"
    deviation = f" ± {stdev(known):.{digits}f}" if len(set(known)) > 1 else ""
    return f"{fmean(known):.{digits}f}{deviation}"


def class_name(names: Sequence[str], number: int) -> str:
    """The name of a class; its number where there are no names."""
    return names[number] if number < len(names) else str(number)


def seed_means(found: Iterable[tuple[int, ArrayLike]]) -> list[NDArray[np.float64]]:
    """One value a seed, of (seed, value) pairs: where a seed ran more than once, the mean of what is known."""
    by_seed: dict[int, list[ArrayLike]] = {}
    for seed, value in found:
        by_seed.setdefault(seed, []).append(value)
    return [known_mean(np.asarray(several, dtype=float)) for _, several in sorted(by_seed.items())]


def known_mean(stacked: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the first dimension, of what is known; NaN where nothing is."""
    known = np.isfinite(stacked)
    with np.errstate(invalid="ignore"):
        return np.where(known, stacked, 0.0).sum(axis=0) / known.sum(axis=0)
