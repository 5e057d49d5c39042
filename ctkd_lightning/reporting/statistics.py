"""What seeds say together: mean, deviation, and the interval of a paired difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """Values of several seeds.

    Attributes:
        mean: of them.
        deviation: their standard deviation, of a sample (n - 1); ``None`` of a single value.
        n: how many.
    """

    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """Of pairs of values that share a seed.

    Attributes:
        mean: of first minus second.
        interval: of that mean, at 95 %, by Student's t (:func:`scipy.stats.ttest_rel`); ``None`` of fewer than two
            pairs, and where all differ by the same, which leaves no deviation to go by.
        n: pairs.
    """

    mean: float
    interval: tuple[float, float] | None
    n: int

    @property
    def above_zero(self) -> bool:
        """Whether the interval lies above zero."""
        return self.interval is not None and self.interval[0] > 0

    @property
    def below_zero(self) -> bool:
        """Whether it lies below."""
        return self.interval is not None and self.interval[1] < 0


def spread(values: Sequence[float]) -> Spread:
    """Mean and deviation of one value or more.

    Example:
        >>> spread([90.0, 92.0])
        Spread(mean=91.0, deviation=1.4142135623730951, n=2)
    """
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, len(values))


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """First minus second over the seeds that both have.

    Args:
        first: from seed to value.
        second: likewise.

    Returns:
        ``None`` where they share no seed.

    Example:
        >>> paired_difference({1: 92.0, 2: 91.0}, {1: 90.0, 3: 80.0})
        Difference(mean=2.0, interval=None, n=1)
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    a, b = ([values[seed] for seed in seeds] for values in (first, second))
    differences = np.subtract(a, b)
    interval = None
    if len(seeds) > 1 and not np.allclose(differences, differences[0], rtol=0, atol=1e-9):
        low, high = stats.ttest_rel(a, b).confidence_interval(LEVEL)
        interval = float(low), float(high)
    return Difference(float(differences.mean()), interval, len(seeds))
