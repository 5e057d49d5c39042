"""Temperatures of single samples: how they spread, and the images at both ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.outputs import TestOutputs
from ctkd_lightning.job.temperatures import SampleTemperatures
from ctkd_lightning.reporting.figures._canvas import GREY, WRONG_COLOUR, bare, canvas, epoch_axis, literal, wide_axis
from ctkd_lightning.reporting.figures._comparison import Arm, Comparison, Missing, over_runs
from ctkd_lightning.reporting.picture import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 4
MOST_BINS = 48
_COLUMNS, _EACH = 4, 8
_ROLES = ("teacher", "student")

_ONE_FOR_ALL = "no run has a temperature for each sample: train with temperature=instance"


def temperature_histogram(comparison: Comparison) -> Picture:
    """How many training samples had which τ, epoch by epoch.

    Raises:
        Missing: no run has kept it.
    """
    kept = {arm.label: (arm, found) for arm in comparison.distilled if (found := _temperatures(arm))}
    if not kept:
        raise Missing(f"{_ONE_FOR_ALL}, by this version or a later one")
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
        panel.plot(epochs, middle, "o-" if len(epochs) < 40 else "-", color="white", lw=1.5, path_effects=outline)
        wide_axis(panel.yaxis, edges)
        panel.grid(False)
        panel.set(title=literal(arm.label), ylabel="τ")
        epoch_axis(panel)
        bar = figure.colorbar(mesh, ax=panel, label="% of samples", pad=0.02, format="{x:g}")
        bar.ax.minorticks_off()
        bar.ax.tick_params(color=GREY, labelcolor=GREY, labelsize=9)
        bar.outline.set_visible(False)
        told.append(
            f"{arm.label}: median τ {middle[0]:.3g} in epoch {epochs[0]}, {middle[-1]:.3g} in epoch {epochs[-1]}; nine "
            f"of ten samples between {low[0]:.3g} and {high[0]:.3g}, then between {low[-1]:.3g} and {high[-1]:.3g}"
        )
    arms = [arm for arm, _ in shown]
    mean = over_runs(arms)
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


def temperature_extremes(comparison: Comparison) -> Picture:
    """The test images with the lowest and with the highest τ, of the first run that has them.

    Raises:
        Missing: no run has kept them.
    """
    first = next(
        (
            (arm, run, outputs)
            for arm in comparison.distilled
            for run, outputs in arm.outputs(*_ROLES)
            if outputs.tau is not None and outputs.pictures
        ),
        None,
    )
    if first is None:
        raise Missing(f"{_ONE_FOR_ALL} keep_outputs=true")
    arm, run, outputs = first
    lowest, highest = ends(outputs)
    rows = math.ceil(len(lowest) / _COLUMNS) + math.ceil(len(highest) / _COLUMNS)
    figure, axes = canvas(1.95 * rows, rows, _COLUMNS, h_pad=0.1)
    for panel in axes:
        bare(panel)
    first_high = math.ceil(len(lowest) / _COLUMNS) * _COLUMNS
    places = [*zip(axes, lowest, strict=False), *zip(axes[first_high:], highest, strict=False)]
    for panel, position in places:
        _show(panel, outputs, position)
    told = [_told(outputs, what, found) for what, found in (("lowest", lowest), ("highest", highest)) if found]
    caption = (
        f"Test images with the lowest temperatures (first {len(lowest)}) and with the highest (last {len(highest)}) at "
        "the end of the training, with their label and both networks' guesses; ✗ marks a wrong one. Of "
        f"{arm.label}, seed {run.summary.seed}."
    )
    return Picture(
        name="temperature_extremes",
        title="Images with the lowest and the highest temperature",
        caption=caption,
        alt="Test images. " + "; ".join(told) + ".",
        figure=figure,
        section="samples",
    )


def ends(outputs: TestOutputs) -> tuple[list[int], list[int]]:
    """Positions of the kept pictures with the lowest τ and of those with the highest, from low to high."""
    assert outputs.tau is not None
    taus = outputs.tau
    order = sorted(outputs.pictures, key=lambda position: float(taus[position]))
    half = min(_EACH, math.ceil(len(order) / 2))
    return order[:half], order[max(half, len(order) - _EACH) :]


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


def _temperatures(arm: Arm) -> SampleTemperatures | None:
    """Those of all runs of an arm together, epochs without samples left out; ``None`` where there are none."""
    summed: SampleTemperatures | None = None
    for run in arm.runs:
        try:
            kept = SampleTemperatures.read(run.files)
        except UserError:  # named on its own
            continue
        if kept is None:
            continue
        if summed is None:
            summed = SampleTemperatures(kept.edges, {})
        if len(kept.edges) != len(summed.edges) or not np.allclose(kept.edges, summed.edges):
            continue
        for epoch, counts in kept.counts.items():
            if counts.any():
                summed.counts[epoch] = summed.counts.get(epoch, 0) + counts
    return summed if summed is not None and summed.counts else None


def _show(panel: Axes, outputs: TestOutputs, position: int) -> None:
    """One image with its τ, its label and both guesses."""
    assert outputs.tau is not None
    panel.imshow(outputs.pictures[position].permute(1, 2, 0).numpy(), interpolation="nearest")
    panel.set_title(f"τ {float(outputs.tau[position]):.3g}", pad=3, weight="normal")
    lines = [(f"label {_name(outputs, int(outputs.target[position]))}", GREY)]
    for role in _ROLES:
        guess = outputs.networks[role].logits[position].argmax()
        wrong = bool(guess != outputs.target[position])
        lines.append((f"{role} {_name(outputs, int(guess))}{' ✗' if wrong else ''}", WRONG_COLOUR if wrong else GREY))
    for place, (text, colour) in enumerate(lines):
        panel.annotate(
            text,
            (0.5, 0),
            xytext=(0, -4 - 12 * place),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=9,
            color=colour,
        )


def _told(outputs: TestOutputs, what: str, positions: list[int]) -> str:
    assert outputs.tau is not None
    taus = outputs.tau[positions]
    wrong = [
        int((outputs.networks[role].logits[positions].argmax(dim=1) != outputs.target[positions]).sum())
        for role in _ROLES
    ]
    return (
        f"{len(positions)} with the {what} τ, {float(taus.min()):.3g} to {float(taus.max()):.3g}: the teacher is wrong "
        f"in {wrong[0]}, the student in {wrong[1]}"
    )


def _name(outputs: TestOutputs, number: int) -> str:
    return literal(outputs.class_names[number], 10) if number < len(outputs.class_names) else str(number)
