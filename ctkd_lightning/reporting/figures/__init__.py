"""The figures of a page, a file a family: each function makes a picture of the runs, or says what they lack."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ctkd_lightning.errors import UserError
from ctkd_lightning.reporting.figures._canvas import style
from ctkd_lightning.reporting.figures._comparison import Comparison, Missing, compare, damaged
from ctkd_lightning.reporting.figures.class_accuracy import class_accuracy
from ctkd_lightning.reporting.figures.class_correlations import class_correlations
from ctkd_lightning.reporting.figures.features import embedding
from ctkd_lightning.reporting.figures.loss import kd_loss
from ctkd_lightning.reporting.figures.reliability import reliability
from ctkd_lightning.reporting.figures.surface import loss_surface
from ctkd_lightning.reporting.figures.temperature import temperature
from ctkd_lightning.reporting.figures.temperature_extremes import temperature_extremes
from ctkd_lightning.reporting.figures.temperature_histogram import temperature_histogram
from ctkd_lightning.reporting.picture import Picture
from ctkd_lightning.reporting.runs import Runs

__all__ = ["FIGURES", "pictures"]

FIGURES: dict[str, Callable[[Comparison], Picture]] = {
    "temperature over the training": temperature,
    "KD loss": kd_loss,
    "t-SNE": embedding,
    "class correlations": class_correlations,
    "accuracy by class": class_accuracy,
    "reliability": reliability,
    "temperatures of the samples": temperature_histogram,
    "images by temperature": temperature_extremes,
    "loss along the temperature": loss_surface,
}
"""By what they show, in the page's order."""

OF_CLASSIFIERS = {
    "t-SNE",
    "class correlations",
    "accuracy by class",
    "reliability",
    "images by temperature",
    "loss along the temperature",
}
"""Those of what networks give for single test samples, which runs of other tasks do not keep."""


def pictures(runs: Runs, missing: list[str] | None = None) -> Iterator[Picture]:
    """The figures that runs have the inputs for, one after the other. No network is loaded.

    Args:
        runs: those that count.
        missing: is given a line for each figure that cannot be drawn, and for each file that is damaged: what is
            missing, and what to do.
    """
    missing = [] if missing is None else missing
    if not runs.runs:
        return
    missing += damaged(runs)
    comparison = compare(runs)
    classifiers = any(run.summary.task == "classification" for run in runs.runs)
    if not classifiers:
        *names, last = [name for name in FIGURES if name in OF_CLASSIFIERS]
        missing.append(f"{', '.join(names)} and {last} are figures of classifiers")
    for name, draw in FIGURES.items():
        if name in OF_CLASSIFIERS and not classifiers:
            continue
        try:
            with style():
                picture = draw(comparison)
        except (Missing, UserError) as error:
            missing.append(f"{name}: {error}")
        else:
            yield picture
