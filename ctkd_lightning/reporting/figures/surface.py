"""The loss along the temperature at the end of the training: what a temperature that maximises it can reach."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctkd_lightning.job.outputs import TestOutputs
from ctkd_lightning.methods import kd_loss
from ctkd_lightning.reporting.figures._canvas import canvas, legend, wide_axis, wrapped
from ctkd_lightning.reporting.figures._comparison import BOTH, NO_OUTPUTS, Comparison, DrawnArm, Missing, outputs_note
from ctkd_lightning.reporting.figures._terms import is_kd_at_one_tau
from ctkd_lightning.reporting.figures._words import seed_means, spread
from ctkd_lightning.reporting.picture import Picture
from ctkd_lightning.reporting.runs import ReportedRun

_LOW, _HIGH, _POINTS = 0.5, 32.0, 33
_MOST_SAMPLES = 1000
_TAU = "ctkd/temperature"


def loss_surface(comparison: Comparison) -> Picture:
    """KD over τ of each arm, with the temperature at which it ended.

    Raises:
        Missing: no run has kept the logits of both networks.
    """
    taus = np.geomspace(_LOW, _HIGH, _POINTS)
    figure, (axes,) = canvas(3.6)
    drawn, told = [], []
    samples = 0
    for arm in comparison.distilled:
        curves, ends = [], []
        for run, outputs in arm.outputs(*BOTH):
            logits = _logits(outputs)
            if not len(logits[0]):
                continue
            samples = max(samples, len(logits[0]))
            curves.append((run.summary.seed, along(*logits, taus)))
            if (end := _end(run)) is not None and is_kd_at_one_tau(arm):
                ends.append((end, float(kd_loss(*logits, end))))
        if not curves:
            continue
        drawn.append(arm)
        by_seed = seed_means(curves)
        mean = np.mean(by_seed, axis=0)
        axes.plot(taus, mean, arm.line, color=arm.colour, label=wrapped(arm.label))
        if len(by_seed) > 1:
            axes.fill_between(
                taus, np.min(by_seed, axis=0), np.max(by_seed, axis=0), color=arm.colour, alpha=0.15, lw=0
            )
        if ends:
            axes.plot(*zip(*ends, strict=True), "o", color=arm.colour, markersize=8, markeredgecolor="white")
        told.append(_told(arm, taus, mean))
    if not drawn:
        raise Missing(f"{NO_OUTPUTS}, and a teacher")
    axes.set(xlabel="τ", ylabel="KD loss on test samples")
    wide_axis(axes.xaxis, taus)
    legend(figure, [line for line in axes.lines if line.get_linestyle() != "None"])

    caption = (
        f"KD loss, with its factor τ², of {samples} test samples at the end of the training, as a function of τ."
        f"{_on_points(drawn)}{outputs_note(drawn)}"
    )
    return Picture(
        name="loss_surface",
        title="The loss along the temperature",
        caption=comparison.caption(caption, drawn),
        alt="; ".join(told) + ".",
        figure=figure,
        section="surface",
    )


def _end(run: ReportedRun) -> float | None:
    """τ at the end of a run, where it is one."""
    end = run.summary.final.get(_TAU, math.nan)
    return end if math.isfinite(end) and end > 0 else None


def _on_points(arms: Sequence[DrawnArm]) -> str:
    """What the points are, and which arms have none, as sentences."""
    at_one_tau = [is_kd_at_one_tau(arm) for arm in arms]
    words = ""
    if any(at_one_tau):
        words = (
            " Points are the temperatures at which the runs ended, one a run (where each sample has its own, their "
            "mean): a learned temperature moves uphill, a fixed one stands where it was set."
        )
    without = [arm.label for arm, one in zip(arms, at_one_tau, strict=True) if not one]
    if without:
        words += (
            f" Without a point: {'; '.join(without)}. What was trained there is not KD at one τ but another function: "
            "the curve compares the networks, and is not the loss along which their temperature moved."
        )
    return words


def _told(arm: DrawnArm, taus: NDArray[np.float64], mean: NDArray[np.float64]) -> str:
    """An arm's curve in numbers, with the temperature at which its runs, all of them, ended."""
    peak = int(mean.argmax())
    ends = list(arm.by_seed(_end).values()) if is_kd_at_one_tau(arm) else []
    return (
        f"{arm.label}: KD from {mean[0]:.3g} at τ = {taus[0]:.3g} to {mean[-1]:.3g} at τ = {taus[-1]:.3g}, highest "
        f"{mean[peak]:.3g} at {taus[peak]:.3g}" + (f"; ended at τ = {spread(ends, 2)}" if ends else "")
    )


def along(student: Tensor, teacher: Tensor, taus: NDArray[np.float64]) -> NDArray[np.float64]:
    """KD at each τ."""
    return np.array([float(kd_loss(student, teacher, float(tau))) for tau in taus])


def _logits(outputs: TestOutputs) -> tuple[Tensor, Tensor]:
    """Student's and teacher's, of at most :data:`_MOST_SAMPLES` samples that are finite."""
    student, teacher = (outputs.networks[role].logits for role in ("student", "teacher"))
    finite = (student.isfinite().all(dim=1) & teacher.isfinite().all(dim=1)).nonzero().flatten()
    if len(finite) > _MOST_SAMPLES:
        finite = finite[torch.linspace(0, len(finite) - 1, _MOST_SAMPLES).long()]
    return student[finite], teacher[finite]
