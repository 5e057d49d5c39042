"""How well each class is recognised, by the student and by the teacher."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctkd_lightning.job.outputs import TestOutputs
from ctkd_lightning.reporting.figures._canvas import GREY, canvas, class_label, legend, wrapped
from ctkd_lightning.reporting.figures._comparison import BOTH, NO_OUTPUTS, Comparison, Missing, outputs_note
from ctkd_lightning.reporting.figures._words import class_name, known_mean, seed_means, spread
from ctkd_lightning.reporting.picture import Picture

MOST_CLASSES = 20
_MARKERS = "osD^vP"  # one an arm


def class_accuracy(comparison: Comparison) -> Picture:
    """Accuracy in each class, the student's less the teacher's, and how often both say the same.

    Raises:
        Missing: no run has kept the logits of both.
    """
    differences: dict[str, NDArray[np.float64]] = {}
    agreements: dict[str, list[NDArray[np.float64]]] = {}
    arms = comparison.distilled[: len(_MARKERS)]
    class_names: list[str] = []
    for arm in arms:
        found, same = [], []
        for run, outputs in arm.outputs(*BOTH):
            found.append((run.summary.seed, accuracy_difference(outputs)))
            same.append((run.summary.seed, agreement(outputs)))
            class_names = class_names or outputs.class_names
        if found:
            differences[arm.label] = known_mean(np.stack(seed_means(found)))
            agreements[arm.label] = seed_means(same)
    if not differences:
        raise Missing(f"{NO_OUTPUTS}, and a teacher")

    means = known_mean(np.stack(list(differences.values())))  # (C,)
    order = np.argsort(means, kind="stable")
    order = order[np.isfinite(means[order])]
    classes = len(order)
    if classes > MOST_CLASSES:
        order = np.concatenate([order[: MOST_CLASSES // 2], order[-(MOST_CLASSES // 2) :]])
    figure, (axes,) = canvas(2.0 + 0.24 * len(order))
    drawn = [arm for arm in arms if arm.label in differences]
    for place, (arm, marker) in enumerate(zip(drawn, _MARKERS, strict=False)):
        shift = (place - (len(drawn) - 1) / 2) * 0.6 / max(1, len(drawn))
        label = wrapped(f"{arm.label}: same guess as the teacher in {spread(agreements[arm.label], 1)} %")
        axes.plot(
            differences[arm.label][order],
            np.arange(len(order)) + shift,
            marker,
            color=arm.colour,
            label=label,
            markersize=5,
        )
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(order)), [class_label(class_names, c, 18) for c in order])
    axes.set(xlabel="accuracy of the student − of the teacher, points", ylabel="class")
    axes.margins(y=0.03)
    legend(figure, axes.lines[: len(drawn)])

    half = MOST_CLASSES // 2
    some = f" The {half} worst and the {half} best of {classes} classes." if classes > MOST_CLASSES else ""
    caption = (
        "Top-1 accuracy on the test samples of each class, the student's less the teacher's, in percentage points; the "
        "legend has the share of all test samples for which both say the same, right or wrong."
        f"{some}{outputs_note(drawn)}"
    )
    told = []
    for arm in drawn:
        values = differences[arm.label]
        worst, best = int(np.nanargmin(values)), int(np.nanargmax(values))
        told.append(
            f"{arm.label}: from {values[worst]:+.1f} points in class {class_name(class_names, worst)} to "
            f"{values[best]:+.1f} in class {class_name(class_names, best)}, same guess as the teacher in "
            f"{spread(agreements[arm.label], 1)} %"
        )
    return Picture(
        name="class_accuracy",
        title="Accuracy by class, student less teacher",
        caption=comparison.caption(caption, drawn, comparison.distilled),
        alt="; ".join(told) + ".",
        figure=figure,
        section="agreement",
    )


def accuracy_difference(outputs: TestOutputs) -> NDArray[np.float64]:
    """(C,), percentage points; NaN for a class without samples."""
    teacher, student = (_right(outputs, role) for role in BOTH)
    target, classes = outputs.target.numpy(), outputs.networks["student"].logits.shape[1]
    samples = np.bincount(target, minlength=classes).astype(float)
    samples[samples == 0] = np.nan
    gained = np.bincount(target, weights=student.astype(float) - teacher, minlength=classes)
    return 100 * gained / samples


def agreement(outputs: TestOutputs) -> float:
    """Share of the samples for which teacher and student say the same, percent."""
    teacher, student = (outputs.networks[role].logits.argmax(dim=1) for role in BOTH)
    return 100 * float((teacher == student).double().mean())


def _right(outputs: TestOutputs, role: str) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = (outputs.networks[role].logits.argmax(dim=1) == outputs.target).numpy()
    return right
