"""Whether students judge as their teachers do: how classes are correlated, and how well each is recognised."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ctkd_lightning.job.outputs import TestOutputs
from ctkd_lightning.reporting.figures._canvas import bare, canvas, legend, literal
from ctkd_lightning.reporting.figures._comparison import NO_OUTPUTS, Comparison, Missing, outputs_note
from ctkd_lightning.reporting.figures._words import spread
from ctkd_lightning.reporting.picture import Picture

MOST_PANELS = 4
MOST_CLASSES = 20
MOST_ARMS = 6
_BOTH = ("teacher", "student")
_NOT_KEPT = f"{NO_OUTPUTS}, and a teacher"


def class_correlations(comparison: Comparison) -> Picture:
    """Difference of the correlation matrices of teacher and student, the mean of each arm's runs.

    Raises:
        Missing: no run has kept the logits of both.
    """
    found = {}
    for arm in comparison.distilled:
        differences = [correlation_difference(outputs) for _, outputs in arm.outputs(*_BOTH)]
        differences = [d for d in differences if len(d) == len(differences[0]) and np.isfinite(d).any()]
        if differences and len(found) < MOST_PANELS:
            found[arm.label] = arm, differences
    if not found:
        raise Missing(_NOT_KEPT)

    columns = min(2, len(found))
    rows = math.ceil(len(found) / columns)
    figure, axes = canvas(3.0 * rows + 0.4 if columns == 2 else 4.6, rows, columns)
    means = [_mean(np.stack(differences)) for _, differences in found.values()]
    most = max(float(np.nanmax(np.abs(mean))) for mean in means) or 1.0
    errors = {label: [float(np.nanmean(np.abs(d))) for d in differences] for label, (_, differences) in found.items()}
    for panel in axes:
        bare(panel)
    for panel, label, mean in zip(axes, found, means, strict=False):
        image = panel.imshow(mean, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
        panel.set_title(f"{literal(label)}\nmean |Δ| {spread(errors[label], 3)}")
        panel.set(xlabel="class", ylabel="class")
    bar = figure.colorbar(
        image, ax=axes, location="bottom", shrink=0.7, aspect=30, label="correlation of the teacher − of the student"
    )
    bar.ax.tick_params(color=bar.ax.xaxis.label.get_color(), labelcolor=bar.ax.xaxis.label.get_color(), labelsize=9)
    bar.outline.set_visible(False)

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


def class_accuracy(comparison: Comparison) -> Picture:
    """Accuracy in each class, the student's less the teacher's, and how often both say the same.

    Raises:
        Missing: no run has kept the logits of both.
    """
    differences, agreements = {}, {}
    arms = comparison.distilled[:MOST_ARMS]
    class_names: list[str] = []
    for arm in arms:
        found = []
        for _, outputs in arm.outputs(*_BOTH):
            found.append(accuracy_difference(outputs))
            agreements.setdefault(arm.label, []).append(agreement(outputs))
            class_names = class_names or outputs.class_names
        found = [d for d in found if len(d) == len(found[0])]
        if found:
            differences[arm.label] = _mean(np.stack(found))
    if not differences:
        raise Missing(_NOT_KEPT)

    table = np.stack(list(differences.values()))  # (arms, C)
    order = np.argsort(_mean(table), kind="stable")
    order = order[np.isfinite(_mean(table)[order])]
    classes = len(order)
    if classes > MOST_CLASSES:
        order = np.concatenate([order[: MOST_CLASSES // 2], order[-(MOST_CLASSES // 2) :]])
    figure, (axes,) = canvas(1.6 + 0.24 * len(order) + 0.2 * len(differences))
    drawn = [arm for arm in arms if arm.label in differences]
    markers = "osD^vP"
    for place, (arm, marker) in enumerate(zip(drawn, markers, strict=False)):
        shift = (place - (len(drawn) - 1) / 2) * 0.6 / max(1, len(drawn))
        label = f"{literal(arm.label)}: same guess as the teacher in {spread(agreements[arm.label], 1)} %"
        axes.plot(
            differences[arm.label][order],
            np.arange(len(order)) + shift,
            marker,
            color=arm.colour,
            label=label,
            markersize=5,
        )
    axes.axvline(0, color=axes.xaxis.label.get_color(), linewidth=1)
    axes.set_yticks(range(len(order)), [literal(class_names[c] if c < len(class_names) else str(c), 18) for c in order])
    axes.set(xlabel="accuracy of the student − of the teacher, points", ylabel="class")
    axes.margins(y=0.03)
    legend(figure, axes.lines[: len(drawn)])

    some = (
        f" The {MOST_CLASSES // 2} worst and the {MOST_CLASSES // 2} best of {classes} classes."
        if classes > len(order)
        else ""
    )
    caption = (
        "Top-1 accuracy on the test samples of each class, the student's less the teacher's, in percentage points; the "
        "legend has the share of all test samples for which both say the same, right or wrong."
        f"{some}{outputs_note(drawn)}"
    )
    told = []
    for arm in drawn:
        values = differences[arm.label]
        worst, best = int(np.nanargmin(values)), int(np.nanargmax(values))
        name = {c: class_names[c] if c < len(class_names) else str(c) for c in (worst, best)}
        told.append(
            f"{arm.label}: from {values[worst]:+.1f} points in class {name[worst]} to {values[best]:+.1f} in class "
            f"{name[best]}, same guess as the teacher in {spread(agreements[arm.label], 1)} %"
        )
    return Picture(
        name="class_accuracy",
        title="Accuracy by class, student less teacher",
        caption=comparison.caption(caption, drawn, comparison.distilled),
        alt="; ".join(told) + ".",
        figure=figure,
        section="agreement",
    )


def correlation_difference(outputs: TestOutputs) -> NDArray[np.float64]:
    """(C, C), NaN for a class whose logit is the same for all samples."""
    teacher, student = (_correlations(outputs.networks[role].logits.double().numpy()) for role in _BOTH)
    return teacher - student


def _correlations(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    known = logits[np.isfinite(logits).all(axis=1)]
    if len(known) < 2:
        return np.full((logits.shape[1],) * 2, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):  # of a class whose logit is always the same
        return np.atleast_2d(np.corrcoef(known, rowvar=False))


def accuracy_difference(outputs: TestOutputs) -> NDArray[np.float64]:
    """(C,), percentage points; NaN for a class without samples."""
    teacher, student = (_right(outputs, role) for role in _BOTH)
    target, classes = outputs.target.numpy(), outputs.networks["student"].logits.shape[1]
    samples = np.bincount(target, minlength=classes).astype(float)
    samples[samples == 0] = np.nan
    gained = np.bincount(target, weights=student.astype(float) - teacher, minlength=classes)
    return 100 * gained / samples


def agreement(outputs: TestOutputs) -> float:
    """Share of the samples for which teacher and student say the same, percent."""
    teacher, student = (outputs.networks[role].logits.argmax(dim=1) for role in _BOTH)
    return 100 * float((teacher == student).double().mean())


def _right(outputs: TestOutputs, role: str) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = (outputs.networks[role].logits.argmax(dim=1) == outputs.target).numpy()
    return right


def _mean(stacked: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the first dimension, of what is known; NaN where nothing is."""
    known = np.isfinite(stacked)
    with np.errstate(invalid="ignore"):
        return np.where(known, stacked, 0.0).sum(axis=0) / known.sum(axis=0)
