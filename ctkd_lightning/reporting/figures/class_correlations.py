"""How the classes are correlated, in the teacher and in the student."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ctkd_lightning.job.outputs import TestOutputs
from ctkd_lightning.reporting.figures._canvas import bare, canvas, colour_bar, panel_title, title_room
from ctkd_lightning.reporting.figures._comparison import BOTH, NO_OUTPUTS, Comparison, DrawnArm, Missing, outputs_note
from ctkd_lightning.reporting.figures._words import known_mean, seed_means, spread
from ctkd_lightning.reporting.picture import Picture

MOST_PANELS = 4


def class_correlations(comparison: Comparison) -> Picture:
    """Difference of the correlation matrices of teacher and student, the mean of each arm's runs.

    Raises:
        Missing: no run has kept the logits of both.
    """
    found: dict[str, tuple[DrawnArm, list[NDArray[np.float64]]]] = {}
    for arm in comparison.distilled:
        of_runs = ((run.summary.seed, correlation_difference(outputs)) for run, outputs in arm.outputs(*BOTH))
        differences = seed_means((seed, difference) for seed, difference in of_runs if np.isfinite(difference).any())
        if differences and len(found) < MOST_PANELS:
            found[arm.label] = arm, differences
    if not found:
        raise Missing(f"{NO_OUTPUTS}, and a teacher")

    columns = min(2, len(found))
    rows = math.ceil(len(found) / columns)
    means = [known_mean(np.stack(differences)) for _, differences in found.values()]
    most = max(float(np.nanmax(np.abs(mean))) for mean in means) or 1.0
    errors = {label: [float(np.nanmean(np.abs(d))) for d in differences] for label, (_, differences) in found.items()}
    titles = [panel_title(label, f"mean |Δ| {spread(error, 3)}") for label, error in errors.items()]
    height = 3.0 * rows + 0.4 if columns == 2 else 4.6
    figure, axes = canvas(height + rows * title_room(titles), rows, columns)
    for panel in axes:
        bare(panel)
    for panel, title, mean in zip(axes, titles, means, strict=False):
        image = panel.imshow(mean, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
        panel.set_title(title)
        panel.set(xlabel="class", ylabel="class")
    says = "correlation of the teacher − of the student"
    colour_bar(figure, image, axes, says, location="bottom", shrink=0.7, aspect=30)

    drawn = [arm for arm, _ in found.values()]
    caption = (
        "Correlation of each two classes' logits over the test samples: that of the teacher's less that of the "
        f"student's, as in the papers of CRD and DKD; white where they are equal.{outputs_note(drawn)}"
    )
    told = [f"{label}: mean absolute difference {spread(value, 4)}" for label, value in errors.items()]
    return Picture(
        name="class_correlations",
        title="Correlations between classes, teacher against student",
        caption=comparison.caption(caption, drawn, comparison.distilled),
        alt="; ".join(told) + ".",
        figure=figure,
        section="agreement",
    )


def correlation_difference(outputs: TestOutputs) -> NDArray[np.float64]:
    """(C, C), NaN for a class whose logit is the same for all samples."""
    teacher, student = (_correlations(outputs.networks[role].logits.double().numpy()) for role in BOTH)
    return teacher - student


def _correlations(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    known = logits[np.isfinite(logits).all(axis=1)]
    if len(known) < 2:
        return np.full((logits.shape[1],) * 2, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):  # of a class whose logit is always the same
        return np.atleast_2d(np.corrcoef(known, rowvar=False))
