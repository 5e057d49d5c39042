"""The distillation loss over the training: as it was optimised, and KD at one temperature for all."""

from __future__ import annotations

from typing import NamedTuple

from ctkd_lightning.reporting.figures._canvas import canvas, epoch_axis, legend, wide_axis
from ctkd_lightning.reporting.figures._comparison import Comparison, DrawnArm, Missing, over_seeds
from ctkd_lightning.reporting.figures._curves import Curve, curve, draw_curve
from ctkd_lightning.reporting.figures._terms import is_kd, is_kd_at_one_tau, terms
from ctkd_lightning.reporting.picture import Picture

_AT = "train/kd_at_"
_MARKERS = "os^D"  # one a term


class _Loss(NamedTuple):
    """One curve of a panel: an arm's, or that of one of its terms."""

    arm: DrawnArm
    label: str
    marker: str
    found: Curve


def kd_loss(comparison: Comparison) -> Picture:
    """Both losses of each arm; on the same axes where both are KD.

    Raises:
        Missing: no run has logged them.
    """
    arms = comparison.distilled
    all_kd = all(map(is_kd, arms))
    panels = {f"as optimised, {'at each arm’s own τ' if all_kd else 'each arm’s own loss'}": _optimised(arms)}
    names = dict.fromkeys(name for arm in arms for run in arm.runs for name in run.series)
    panels |= {f"KD at τ = {name[len(_AT) :]} for all": _of(arms, name) for name in names if name.startswith(_AT)}
    panels = {title: losses for title, losses in panels.items() if losses}
    if not panels:
        raise Missing("no run has logged a distillation loss: train by this version or a later one")

    figure, axes = canvas(1.0 + 2.0 * len(panels), len(panels), sharex=True, sharey=all_kd)
    for panel, (title, losses) in zip(axes, panels.items(), strict=True):
        for loss in losses:
            draw_curve(panel, loss.found, loss.arm, label=loss.label, marker=loss.marker)
        panel.set(title=title, ylabel="KD loss" if all_kd or title.startswith("KD") else "loss")
    for panel, losses in zip(axes, panels.values(), strict=True):
        same = [loss for several in panels.values() for loss in several] if all_kd else losses
        wide_axis(panel.yaxis, [value for loss in same for value in (*loss.found.low, *loss.found.high)])
    epoch_axis(axes[-1])
    legend(figure, [line for panel in axes for line in panel.lines])

    drawn = [arm for arm in arms if any(arm is loss.arm for losses in panels.values() for loss in losses)]
    told = [
        f"{loss.label}, {title}: from {loss.found.mean[0]:.3g} in epoch {loss.found.epochs[0]:g} to "
        f"{loss.found.mean[-1]:.3g} in epoch {loss.found.epochs[-1]:g}"
        for title, losses in panels.items()
        for loss in losses
    ]
    return Picture(
        name="kd_loss",
        title="KD loss of fixed and of learned temperatures" if all_kd else "Distillation loss over the training",
        caption=comparison.caption(_caption(panels, drawn, all_kd=all_kd), drawn),
        alt="; ".join(told) + ".",
        figure=figure,
        section="loss",
    )


def _optimised(arms: list[DrawnArm]) -> list[_Loss]:
    """Each term of each arm's loss, without its weight."""
    losses = []
    for arm in arms:
        found = {name: one for name in terms(arm) if (one := curve(arm, f"train/{name}"))}
        for place, (name, one) in enumerate(found.items()):
            label = f"{arm.label}: {name}" if len(found) > 1 else arm.label
            losses.append(_Loss(arm, label, _MARKERS[place % len(_MARKERS)], one))
    return losses


def _of(arms: list[DrawnArm], metric: str) -> list[_Loss]:
    return [_Loss(arm, arm.label, _MARKERS[0], one) for arm in arms if (one := curve(arm, metric))]


def _caption(panels: dict[str, list[_Loss]], drawn: list[DrawnArm], *, all_kd: bool) -> str:
    own = (
        "as it was optimised, at a temperature that differs between the arms"
        if all_kd
        else "as it was optimised, a function of its own for each method"
    )
    one = f"{'' if all_kd else 'KD '}at one constant temperature, which makes the arms comparable"
    shown = [one if title.startswith("KD") else own for title in panels]
    words = (
        f"{'KD loss' if all_kd else 'Distillation loss'} on the training batches, without its weight, mean over each "
        f"epoch: {', and '.join(dict.fromkeys(shown))}."
    )
    if all(map(is_kd_at_one_tau, drawn)):
        words += " It has the factor τ²."
    for title, losses in panels.items():
        absent = [arm.label for arm in drawn if not any(arm is loss.arm for loss in losses)]
        if absent:
            words += f" Not logged “{title}”: {'; '.join(absent)}."
    mean = over_seeds(drawn)
    return f"{words} {mean}; the band reaches from the lowest to the highest." if mean else words
