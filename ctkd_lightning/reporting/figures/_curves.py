"""A metric over the epochs, as mean and range over the seeds of an arm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from ctkd_lightning.reporting.figures._canvas import wrapped
from ctkd_lightning.reporting.figures._comparison import DrawnArm
from ctkd_lightning.reporting.figures._words import seed_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass
class Curve:
    """A series over the seeds of an arm, at each epoch of those runs that have it.

    Attributes:
        epochs: from 1.
        mean: over the seeds.
        low: the lowest of them.
        high: the highest.
    """

    epochs: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def curve(arm: DrawnArm, metric: str) -> Curve | None:
    """Mean and range of a metric over an arm's seeds, without what is not finite; ``None`` where nothing is left."""
    values: dict[float, list[tuple[int, float]]] = {}
    for run in arm.runs:
        for epoch, value in run.series.get(metric, ()):
            if math.isfinite(value):
                values.setdefault(epoch, []).append((run.summary.seed, value))
    if not values:
        return None
    epochs = sorted(values)
    by_epoch = [list(map(float, seed_means(values[epoch]))) for epoch in epochs]
    return Curve(epochs, [fmean(v) for v in by_epoch], [min(v) for v in by_epoch], [max(v) for v in by_epoch])


def draw_curve(
    axes: Axes, found: Curve, arm: DrawnArm, *, label: str | None = None, marker: str = "o", above: int = 0
) -> None:
    """Draw a curve in the arm's colour, its range as a band.

    Args:
        axes: to draw into.
        found: the curve.
        arm: whose it is.
        label: the arm's by default.
        marker: on each epoch, where they are few.
        above: curves that may lie on this one, which is drawn wider, to be seen below them.
    """
    few = len(found.epochs) <= 40
    axes.plot(
        found.epochs,
        found.mean,
        arm.line,
        color=arm.colour,
        label=wrapped(label or arm.label),
        marker=marker if few else "",
        linewidth=2 + 2 * above,
    )
    if found.low != found.high:
        axes.fill_between(found.epochs, found.low, found.high, color=arm.colour, alpha=0.2, linewidth=0)
