"""Pictures of a fusion: accuracy under each condition, and τ of corrupted and clean samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ctkd_lightning.job.figures import pyplot, save
from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.job.summary import FusionSummary

_BINS = 40


def plot_conditions(summary: FusionSummary, run: RunDirectory) -> Path | None:
    """Draw accuracy under each condition of the test, fused and by the plain fusions, into ``figures/conditions``.

    Returns:
        The picture's path; ``None`` where nothing was tested.
    """
    if not summary.conditions:
        return None
    plt = pyplot()
    conditions = list(summary.conditions)
    series = ["fused", "product", "average"]
    if "joint" in next(iter(summary.conditions.values())):
        series.append("joint")
    labels = {"fused": "fused with temperatures", "joint": "joint head alone"}
    figure, axes = plt.subplots(figsize=(max(6.0, 1.6 + 1.5 * len(conditions)), 3.8), layout="constrained")
    shift = 0.5 / len(series)
    for place, (name, marker) in enumerate(zip(series, "osD^", strict=False)):
        heights = [summary.conditions[condition].get(name, math.nan) for condition in conditions]
        places = [i + (place - (len(series) - 1) / 2) * shift for i in range(len(conditions))]
        axes.plot(places, heights, marker, markersize=7, label=labels.get(name, name))
    axes.set(ylabel="test top-1 %", title="accuracy with corrupted modalities")
    axes.set_xticks(range(len(conditions)), conditions)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=len(series), frameon=False)
    axes.grid(axis="y", alpha=0.3)
    return save(figure, run, "conditions.svg", "conditions.png")


def plot_temperatures(told: Mapping[str, Mapping[str, Mapping[str, Tensor]]], run: RunDirectory) -> Path | None:
    """Draw the distribution of τ over corrupted and clean test samples into ``figures/temperatures``.

    Args:
        told: by condition ``"tau"`` and ``"bad"``, by modality (N,).
        run: the run's files.

    Returns:
        The picture's path; ``None`` where no τ differs between samples.
    """
    corrupted = {
        condition: found
        for condition, found in told.items()
        if found["bad"] and any(tau.std() > 0 for tau in found["tau"].values())
    }
    if not corrupted:
        return None
    import numpy as np

    plt = pyplot()
    first = next(iter(corrupted.values()))
    modalities = [name for name in first["tau"] if name in first["bad"]]
    figure, grid = plt.subplots(
        len(corrupted),
        len(modalities),
        figsize=(2.3 * len(modalities) + 0.6, 1.8 * len(corrupted) + 0.8),
        squeeze=False,
        sharex=True,
        layout="constrained",
    )
    finite = [tau[tau.isfinite()] for found in corrupted.values() for tau in found["tau"].values()]
    low, high = min(float(t.min()) for t in finite), max(float(t.max()) for t in finite)
    bins = np.geomspace(low * 0.95, high * 1.05, _BINS)
    for line, (condition, found) in enumerate(corrupted.items()):
        for column, name in enumerate(modalities):
            axes = grid[line][column]
            tau, bad = found["tau"][name], found["bad"][name].bool()
            for chosen, label in ((~bad, "clean"), (bad, "corrupted")):
                if chosen.any():
                    axes.hist(tau[chosen].numpy(), bins, density=True, alpha=0.6, label=label)
            axes.set(xscale="log", yticks=[])
            if line == 0:
                axes.set_title(name)
            if column == 0:
                axes.set_ylabel(condition)
    for axes in grid[-1]:
        axes.set_xlabel("τ")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle("τ of clean and of corrupted test samples")
    return save(figure, run, "temperatures.svg", "temperatures.png")
