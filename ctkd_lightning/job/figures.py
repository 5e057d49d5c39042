"""Pictures of one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctkd_lightning.job.metrics import read_series
from ctkd_lightning.job.run_directory import RunDirectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MEASURES = {
    "val/miou": "mIoU",
    "val/top1": "top-1",
    "val/top5": "top-5",
    "val/map": "mAP",
    "val/ap50": "AP50",
}
_TAU = "ctkd/temperature"
_WIDE = 10  # times the least τ: from there on a logarithmic axis
_MANY = 5  # lines in one legend


def plot_training(run: RunDirectory, validated_on: str) -> Path | None:
    """Draw accuracy or average precision, losses, and λ with τ over the epochs into ``figures/training.png``.

    Args:
        run: with a ``metrics.csv``.
        validated_on: what the accuracy each epoch is measured on, for the axis.

    Returns:
        The picture's path; None where there is nothing to draw.
    """
    series = read_series(run.metrics)
    if not series:
        return None
    plt = pyplot()
    figure, (accuracy, losses, temperature) = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    for name, label in _MEASURES.items():
        if name in series:
            accuracy.plot(*zip(*series[name], strict=True), marker=".", label=label)
    accuracy.set(
        title="average precision" if "val/map" in series else "accuracy", xlabel="epoch", ylabel=f"% on {validated_on}"
    )
    for name in sorted(name for name in series if name.startswith("train/")):
        losses.plot(*zip(*series[name], strict=True), marker=".", label=name.removeprefix("train/"))
    losses.set(title="training losses", xlabel="epoch", yscale="log")

    taus = sorted(name for name in series if name == _TAU or name.startswith(f"{_TAU}/"))
    if taus:
        temperature.set(title="temperature", xlabel="epoch", ylabel="τ")
    for name in taus:
        temperature.plot(*zip(*series[name], strict=True), marker=".", label="τ " + name[len(_TAU) + 1 :])
    values = [value for name in taus for _, value in series[name]]
    if len(taus) > 1 and max(values) > _WIDE * min(values):
        temperature.set_yscale("log")
    if "ctkd/temperature_min" in series and "ctkd/temperature_max" in series:
        epochs, lows = zip(*series["ctkd/temperature_min"], strict=True)
        highs = [value for _, value in series["ctkd/temperature_max"]]
        temperature.fill_between(epochs, lows, highs, alpha=0.2, label="τ, least to greatest")
    if "ctkd/lambda" in series:
        strength = temperature.twinx()
        strength.plot(*zip(*series["ctkd/lambda"], strict=True), color="tab:orange", linestyle="--", label="λ")
        strength.set(ylabel="λ", ylim=(-0.02, 1.02))
        temperature.plot([], [], color="tab:orange", linestyle="--", label="λ")  # for the one legend of both axes
    for axes in (accuracy, losses, temperature):
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines:
            _, labels = axes.get_legend_handles_labels()
            many = len(labels) > _MANY
            loc = "center left" if axes is temperature and not many else "best"
            axes.legend(loc=loc, ncols=2 if many else 1, fontsize="x-small" if many else None)
            axes.grid(alpha=0.3)
    if temperature.get_yscale() == "linear":
        temperature.ticklabel_format(axis="y", useOffset=False)
    return save(figure, run, "training.png")


def pyplot() -> Any:
    """Matplotlib without a display; half a second that only pictures need."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save(figure: Figure, run: RunDirectory, *names: str) -> Path:
    """Write a picture into the run's ``figures``, under each name, and close it; the last one's path."""
    run.figures.mkdir(exist_ok=True)
    for name in names:
        figure.savefig(path := run.figures / name, dpi=110)
    pyplot().close(figure)
    return path
