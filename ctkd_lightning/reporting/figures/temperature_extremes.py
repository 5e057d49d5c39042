"""The images with the lowest and the highest temperature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ctkd_lightning.job.outputs import PICTURES, TestOutputs
from ctkd_lightning.reporting.figures._canvas import GREY, WRONG_COLOUR, bare, canvas, class_label
from ctkd_lightning.reporting.figures._comparison import BOTH, Comparison, Missing
from ctkd_lightning.reporting.figures._terms import is_rule
from ctkd_lightning.reporting.picture import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 4
_SHORT = 7  # letters of a class's name that has room after a word
_WORDS, _LETTERS = ("label", "teacher", "student"), ("", "T", "S")


def temperature_extremes(comparison: Comparison) -> Picture:
    """The test images with the lowest and with the highest τ, of the first run that has them.

    Raises:
        Missing: no run has kept them.
    """
    first = next(
        (
            (arm, run, outputs)
            for arm in comparison.distilled
            for run, outputs in arm.outputs(*BOTH)
            if outputs.tau is not None and outputs.pictures
        ),
        None,
    )
    if first is None:
        raise Missing(
            "no run has kept a temperature for each test sample: train with temperature=instance, or a rule such as "
            "temperature=normkd, with keep_outputs=true, by this version or a later one"
        )
    arm, run, outputs = first
    lowest, highest = ends(outputs)
    rows = math.ceil(len(lowest) / _COLUMNS) + math.ceil(len(highest) / _COLUMNS)
    figure, axes = canvas(1.95 * rows, rows, _COLUMNS, h_pad=0.1)
    for panel in axes:
        bare(panel)
    first_high = math.ceil(len(lowest) / _COLUMNS) * _COLUMNS
    places = [*zip(axes, lowest, strict=False), *zip(axes[first_high:], highest, strict=False)]
    short = max(len(name) for _, position in places for name, _ in _said(outputs, position)) <= _SHORT
    for panel, position in places:
        _show(panel, outputs, position, _WORDS if short else _LETTERS)
    told = [_told(outputs, what, found) for what, found in (("lowest", lowest), ("highest", highest)) if found]
    guesses = "both networks' guesses" if short else "the teacher's guess (T) and the student's (S)"
    caption = (
        f"Test images with the lowest temperatures (first {len(lowest)}) and with the highest (last {len(highest)}) at "
        f"the end of the training, with their label and {guesses}; ✗ marks a wrong one. Of "
        f"{arm.label}, seed {run.summary.seed}."
        + (" τ is that of the student's logits: a rule softens the teacher's by their own." if is_rule(arm) else "")
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
    half = min(PICTURES, math.ceil(len(order) / 2))
    return order[:half], order[max(half, len(order) - PICTURES) :]


def _said(outputs: TestOutputs, position: int) -> list[tuple[str, bool]]:
    """The names of an image's label and of both guesses, and whether they are wrong."""
    target = outputs.target[position]
    guesses = [outputs.networks[role].logits[position].argmax() for role in BOTH]
    return [(_name(outputs, number), bool(number != target)) for number in (target, *guesses)]


def _show(panel: Axes, outputs: TestOutputs, position: int, words: Sequence[str]) -> None:
    """One image with its τ, its label and both guesses, each after its word."""
    assert outputs.tau is not None
    panel.imshow(outputs.pictures[position].permute(1, 2, 0).numpy(), interpolation="nearest")
    panel.set_title(f"τ {float(outputs.tau[position]):.3g}", pad=3, weight="normal")
    for place, (word, (name, wrong)) in enumerate(zip(words, _said(outputs, position), strict=True)):
        panel.annotate(
            f"{word} {name}{' ✗' if wrong else ''}".strip(),
            (0.5, 0),
            xytext=(0, -4 - 12 * place),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=9,
            color=WRONG_COLOUR if wrong else GREY,
        )


def _told(outputs: TestOutputs, what: str, positions: list[int]) -> str:
    assert outputs.tau is not None
    taus = outputs.tau[positions]
    wrong = [
        int((outputs.networks[role].logits[positions].argmax(dim=1) != outputs.target[positions]).sum())
        for role in BOTH
    ]
    return (
        f"{len(positions)} with the {what} τ, {float(taus.min()):.3g} to {float(taus.max()):.3g}: the teacher is wrong "
        f"in {wrong[0]}, the student in {wrong[1]}"
    )


def _name(outputs: TestOutputs, number: Tensor) -> str:
    return class_label(outputs.class_names, int(number), 10)
