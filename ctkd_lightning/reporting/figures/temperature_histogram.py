"""How the temperatures of the samples spread over the training."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.temperatures import SampleTemperatures
from ctkd_lightning.reporting.figures._canvas import canvas, colour_bar, epoch_axis, wide_axis, wrapped
from ctkd_lightning.reporting.figures._comparison import (
    Comparison,
    DrawnArm,
    Missing,
    over_seeds,
)
from ctkd_lightning.reporting.picture import Picture

MOST_PANELS = 4
MOST_BINS = 48


def temperature_histogram(comparison: Comparison) -> Picture:
    """How many training samples had which τ, epoch by epoch.

    Raises:
        Missing: no run has kept it.
    """
    kept = {arm.label: (arm, found) for arm in comparison.distilled if (found := _temperatures(arm))}
    if not kept:
        raise Missing(
            "no run has kept the temperatures of its training samples: train with temperature=instance, by this "
            "version or a later one"
        )
    shown = list(kept.values())[:MOST_PANELS]
    figure, axes = canvas(0.6 + 2.6 * len(shown), len(shown))
    told = []
    for panel, (arm, found) in zip(axes, shown, strict=True):
        epochs, edges, shares = binned(found)
        mesh = panel.pcolormesh(
            np.append(np.array(epochs) - 0.5, epochs[-1] + 0.5),
            edges,
            np.ma.masked_equal(100 * shares.T, 0),
            cmap="viridis",
            norm=LogNorm(),
            rasterized=True,
        )
        low, middle, high = (np.array([quantile(found, epoch, q) for epoch in epochs]) for q in (0.05, 0.5, 0.95))
        outline = [withStroke(linewidth=3, foreground="black")]
        panel.plot(
            epochs,
            middle,
            "o-" if len(epochs) < 40 else "-",
            color="white",
            lw=1.5,
            path_effects=outline,
            clip_on=False,
        )
        wide_axis(panel.yaxis, edges)
        panel.grid(False)
        panel.set(title=wrapped(arm.label), ylabel="τ")
        epoch_axis(panel)
        colour_bar(figure, mesh, panel, "% of samples", pad=0.02, format="{x:g}")
        told.append(
            f"{arm.label}: median τ {middle[0]:.3g} in epoch {epochs[0]}, {middle[-1]:.3g} in epoch {epochs[-1]}; nine "
            f"of ten samples between {low[0]:.3g} and {high[0]:.3g}, then between {low[-1]:.3g} and {high[-1]:.3g}"
        )
    arms = [arm for arm, _ in shown]
    mean = over_seeds(arms)
    caption = (
        "Temperatures of the training samples, as the student was trained with them: share of the samples in each bin, "
        "by epoch. The line is the median" + (f". {mean}." if mean else ".")
    )
    return Picture(
        name="temperature_histogram",
        title="Temperatures of the samples",
        caption=comparison.caption(caption, arms, [arm for arm, _ in kept.values()]),
        alt="; ".join(told) + ".",
        figure=figure,
        section="samples",
    )


def binned(kept: SampleTemperatures) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64]]:
    """Histograms in few bins, from the lowest τ to the highest.

    Returns:
        Epochs (E), edges (B + 1) with at most :data:`MOST_BINS` bins, and shares of each epoch's samples (E, B).
    """
    epochs = sorted(kept.counts)
    counts = np.stack([kept.counts[epoch] for epoch in epochs])
    filled = np.flatnonzero(counts.sum(axis=0))
    first, last = filled[0], filled[-1] + 1
    together = math.ceil((last - first) / MOST_BINS)
    starts = np.arange(first, last, together)
    edges = kept.edges[np.append(starts, min(starts[-1] + together, len(kept.edges) - 1))]
    summed = np.add.reduceat(counts[:, : starts[-1] + together], starts, axis=1)
    return epochs, edges, summed / summed.sum(axis=1, keepdims=True)


def quantile(kept: SampleTemperatures, epoch: int, share: float) -> float:
    """The middle of the bin below or in which a share of the epoch's samples lie."""
    passed = kept.counts[epoch].cumsum()
    place = int(np.searchsorted(passed, share * passed[-1]))
    return float(np.sqrt(kept.edges[place] * kept.edges[place + 1]))


def _temperatures(arm: DrawnArm) -> SampleTemperatures | None:
    """Those of all seeds of an arm together, epochs without samples left out; ``None`` where there are none.

    Only the shares of the counts mean something: a seed that ran more than once weighs as much as the others.
    """
    found: list[tuple[int, SampleTemperatures]] = []
    for run in arm.runs:
        try:
            kept = SampleTemperatures.read(run.files)
        except UserError:  # named on its own
            continue
        if kept is not None and (not found or np.array_equal(kept.edges, found[0][1].edges)):
            found.append((run.summary.seed, kept))
    runs_of = Counter(seed for seed, _ in found)
    equal = math.lcm(*runs_of.values())
    summed: dict[int, NDArray[np.int64]] = {}
    for seed, kept in found:
        for epoch, counts in kept.counts.items():
            if counts.any():
                summed[epoch] = summed.get(epoch, 0) + counts * (equal // runs_of[seed])
    return SampleTemperatures(found[0][1].edges, summed) if summed else None
