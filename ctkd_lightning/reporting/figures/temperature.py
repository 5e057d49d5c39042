"""Temperature over the training, with λ below it."""

from __future__ import annotations

from ctkd_lightning.reporting.figures._canvas import canvas, epoch_axis, legend, wide_axis
from ctkd_lightning.reporting.figures._comparison import Comparison, DrawnArm, Missing, over_seeds
from ctkd_lightning.reporting.figures._curves import Curve, curve, draw_curve
from ctkd_lightning.reporting.figures._terms import is_rule
from ctkd_lightning.reporting.picture import Picture

_TAU, _LAMBDA = "ctkd/temperature", "ctkd/lambda"


def temperature(comparison: Comparison) -> Picture:
    """τ of each arm, and λ of those that learn it.

    Raises:
        Missing: no run has a temperature.
    """
    taus = [(arm, part, found) for arm in comparison.distilled for part, found in _taus(arm).items()]
    if not taus:
        raise Missing("no run has logged a temperature: train with a method that softens logits, such as method=kd")
    drawn = [arm for arm in comparison.distilled if any(arm is other for other, *_ in taus)]
    strengths = [(arm, found) for arm in drawn if (found := curve(arm, _LAMBDA))]

    rows = 2 if strengths else 1
    figure, axes = canvas(4.6 if strengths else 3.4, rows, height_ratios=[2, 1][:rows], sharex=True)
    for arm, part, found in taus:
        draw_curve(axes[0], found, arm, label=_named(arm, part), marker="os^D"[len(part) % 4] if part else "o")
    axes[0].set(ylabel="τ")
    wide_axis(axes[0].yaxis, [value for *_, found in taus for value in (*found.low, *found.high)])
    for place, (arm, found) in enumerate(strengths):
        draw_curve(axes[1], found, arm, above=len(strengths) - 1 - place)
        axes[1].set(ylabel="λ", ylim=(-0.08, 1.08))
    epoch_axis(axes[-1])
    legend(figure, axes[0].lines)

    per_sample = any(f"{_TAU}_std" in run.series for arm in drawn for run in arm.runs)
    rules = [arm.label for arm in drawn if is_rule(arm)]
    mean = over_seeds(drawn)
    caption = (
        "Temperature τ at the end of each epoch"
        + (" (where each sample has its own, their mean over the epoch)" if per_sample else "")
        + ("; below it λ, the strength at which it is trained against the student" if strengths else "")
        + (f". {mean}; the band reaches from the lowest to the highest." if mean else ".")
        + (f" Of {'; '.join(rules)} it is the τ on which the rule for each sample builds." if rules else "")
    )
    told = [
        f"{_named(arm, part)}: τ from {found.mean[0]:.3g} in epoch {found.epochs[0]:g} to {found.mean[-1]:.3g} in "
        f"epoch {found.epochs[-1]:g}"
        for arm, part, found in taus
    ]
    told += [f"{arm.label}: λ from {found.mean[0]:.2g} to {found.mean[-1]:.2g}" for arm, found in strengths]
    return Picture(
        name="temperature",
        title="Temperature over the training",
        caption=comparison.caption(caption, drawn),
        alt="; ".join(told) + ".",
        figure=figure,
        section="temperature",
    )


def _taus(arm: DrawnArm) -> dict[str, Curve]:
    """By part, ``""`` where the arm has one temperature."""
    names = dict.fromkeys(name for run in arm.runs for name in run.series)
    parts = {name: name[len(_TAU) + 1 :] for name in names if name == _TAU or name.startswith(f"{_TAU}/")}
    return {part: found for name, part in parts.items() if (found := curve(arm, name))}


def _named(arm: DrawnArm, part: str) -> str:
    return f"{arm.label}: {part}" if part else arm.label
