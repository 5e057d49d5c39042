"""The loss along the temperature at the end of the training: what a temperature that maximises it can reach."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctkd_lightning.job.outputs import TestOutputs
from ctkd_lightning.methods import kd_loss
from ctkd_lightning.reporting.figures._canvas import canvas, legend, literal, wide_axis
from ctkd_lightning.reporting.figures._comparison import BOTH, NO_OUTPUTS, Comparison, Missing, outputs_note
from ctkd_lightning.reporting.figures._words import spread
from ctkd_lightning.reporting.picture import Picture

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
            curves.append(along(*logits, taus))
            end = run.summary.final.get(_TAU, math.nan)
            if math.isfinite(end) and end > 0:
                ends.append((end, float(kd_loss(*logits, end))))
        if not curves:
            continue
        drawn.append(arm)
        mean = np.mean(curves, axis=0)
        axes.plot(taus, mean, arm.line, color=arm.colour, label=literal(arm.label))
        if len(curves) > 1:
            axes.fill_between(taus, np.min(curves, axis=0), np.max(curves, axis=0), color=arm.colour, alpha=0.15, lw=0)
        if ends:
            axes.plot(*zip(*ends, strict=True), "o", color=arm.colour, markersize=8, markeredgecolor="white")
        peak = int(mean.argmax())
        told.append(
            f"{arm.label}: KD from {mean[0]:.3g} at τ = {taus[0]:.3g} to {mean[-1]:.3g} at τ = {taus[-1]:.3g}, highest "
            f"{mean[peak]:.3g} at {taus[peak]:.3g}"
            + (f"; ended at τ = {spread([end for end, _ in ends], 2)}" if ends else "")
        )
    if not drawn:
        raise Missing(f"{NO_OUTPUTS}, and a teacher")
    axes.set(xlabel="τ", ylabel="KD loss on test samples")
    wide_axis(axes.xaxis, taus)
    legend(figure, [line for line in axes.lines if line.get_linestyle() != "None"])

    caption = (
        f"KD loss, with its factor τ², of {samples} test samples at the end of the training, as a function of τ. "
        "Points are the temperatures at which the runs ended, one a run (where each sample has its own, their mean): a "
        f"learned temperature moves uphill, a fixed one stands where it was set.{outputs_note(drawn)}"
    )
    return Picture(
        name="loss_surface",
        title="The loss along the temperature",
        caption=comparison.caption(caption, drawn),
        alt="; ".join(told) + ".",
        figure=figure,
        section="surface",
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
