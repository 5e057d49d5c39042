"""KD loss over the training: as it was optimised, and at one temperature for all."""

from __future__ import annotations

from ctkd_lightning.reporting.figures._canvas import canvas, epoch_axis, legend, wide_axis
from ctkd_lightning.reporting.figures._comparison import Comparison, Missing, over_runs
from ctkd_lightning.reporting.figures._curves import curve, draw_curve
from ctkd_lightning.reporting.picture import Picture

_OPTIMISED, _AT = "train/kd", "train/kd_at_"


def kd_loss(comparison: Comparison) -> Picture:
    """Both losses of each arm, on the same axes.

    Raises:
        Missing: no run has logged KD.
    """
    names = dict.fromkeys(name for arm in comparison.distilled for run in arm.runs for name in run.series)
    panels = {_OPTIMISED: "as optimised, at each arm's own τ"}
    panels |= {name: f"at τ = {name[len(_AT) :]} for all" for name in names if name.startswith(_AT)}
    curves = {
        metric: found
        for metric in panels
        if (found := [(arm, one) for arm in comparison.distilled if (one := curve(arm, metric))])
    }
    if not curves:
        raise Missing("no run has logged a KD loss: train with method=kd, by this version or a later one")

    figure, axes = canvas(1.0 + 2.0 * len(curves), len(curves), sharex=True, sharey=True)
    for panel, (metric, found) in zip(axes, curves.items(), strict=True):
        for arm, one in found:
            draw_curve(panel, one, arm)
        panel.set(title=panels[metric], ylabel="KD loss")
    every = [value for found in curves.values() for _, one in found for value in (*one.low, *one.high)]
    wide_axis(axes[0].yaxis, every)
    epoch_axis(axes[-1])
    legend(figure, [line for panel in axes for line in panel.lines])

    drawn = [
        arm for arm in comparison.distilled if any(arm is other for found in curves.values() for other, _ in found)
    ]
    mean = over_runs(drawn)
    caption = (
        "KD loss on the training batches, without its weight, mean over each epoch: as it was optimised, at a "
        "temperature that differs between the arms, and at one constant temperature, which makes them comparable. Both "
        "have the factor τ²" + (f". {mean}; the band reaches from the lowest to the highest." if mean else ".")
    )
    told = [
        f"{arm.label}, {panels[metric]}: from {one.mean[0]:.3g} in epoch {one.epochs[0]:g} to {one.mean[-1]:.3g} in "
        f"epoch {one.epochs[-1]:g}"
        for metric, found in curves.items()
        for arm, one in found
    ]
    return Picture(
        name="kd_loss",
        title="KD loss of fixed and of learned temperatures",
        caption=comparison.caption(caption, drawn),
        alt="; ".join(told) + ".",
        figure=figure,
        section="loss",
    )
