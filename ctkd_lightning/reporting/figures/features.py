"""What the students see: their features in two dimensions, and how well these separate the classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctkd_lightning.job.outputs import TestOutputs
from ctkd_lightning.reporting.figures._canvas import (
    CLASS_COLOURS,
    bare,
    canvas,
    class_label,
    legend,
    panel_title,
    title_room,
)
from ctkd_lightning.reporting.figures._comparison import MOST_OUTPUTS, NO_OUTPUTS, Comparison, DrawnArm, Missing
from ctkd_lightning.reporting.figures._words import seed_means, spread
from ctkd_lightning.reporting.picture import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

MOST_SAMPLES = 500
MOST_CLASSES = len(CLASS_COLOURS)
MOST_PANELS = 4
_LEAST_SAMPLES = 5
_PERPLEXITY = 30
_SHORT = 6  # letters of a class's name that has room among the points
_ITERATIONS = 500  # half of scikit-learn's: on 450 digits the divergence is within 1 % of that of the whole


@dataclass
class _Seen:
    """The first run of an arm in two dimensions (N, 2), its samples' classes (N,), and the scores of its seeds."""

    arm: DrawnArm
    seed: int
    points: NDArray[np.float32]
    target: NDArray[np.int64]
    scores: list[NDArray[np.float64]]
    class_names: list[str]
    classes: int


def embedding(comparison: Comparison) -> Picture:
    """t-SNE of the first run of each arm, with the silhouette score of its runs.

    Raises:
        Missing: no run has kept features.
    """
    seen: list[_Seen] = []
    for arm in comparison.arms:
        if len(seen) < MOST_PANELS and (one := _seen(arm)):
            seen.append(one)
    if not seen:
        raise Missing(f"{NO_OUTPUTS}, with a student whose last layer is linear")

    rows = math.ceil(len(seen) / 2)
    columns = min(2, len(seen))
    titles = [panel_title(one.arm.label, f"silhouette {spread(one.scores, 3)}") for one in seen]
    height = 3.0 * rows if columns == 2 else 4.6
    figure, axes = canvas(height + rows * title_room(titles), rows, columns)
    names = [class_label(seen[0].class_names, number, 12) for number in np.unique(seen[0].target)]
    beside = max(map(len, names)) <= _SHORT  # else they would cover each other and the points
    for panel, one, title in zip(axes, seen, titles, strict=False):
        _scatter(panel, one, names if beside else None)
        panel.set_title(title)
    for panel in axes:
        bare(panel)
    if not beside:
        legend(figure, [_key(name, colour) for name, colour in zip(names, CLASS_COLOURS, strict=False)])

    shown, classes = len(np.unique(seen[0].target)), seen[0].classes
    shown_by = "colours and labels" if beside else "colours"
    some = f" of {shown} of the {classes} classes" if shown < classes else ""
    several = any(len(one.scores) > 1 for one in seen)
    caption = (
        f"t-SNE of what the student's last layer reads, for the same {len(seen[0].target)} test samples{some} and with "
        f"the same settings (perplexity {_perplexity(len(seen[0].target)):g}, start from PCA) in each panel, of the "
        f"run with seed {seen[0].seed}; {shown_by} are the classes. The silhouette score, of the features "
        "themselves and not of their picture, is 1 where classes are far apart and 0 where they touch"
        + (f"; mean ± standard deviation over the seeds of up to {MOST_OUTPUTS} runs an arm." if several else ".")
    )
    told = [f"{one.arm.label}: silhouette {spread(one.scores, 3)}" for one in seen]
    return Picture(
        name="tsne",
        title="The students' features by t-SNE",
        caption=comparison.caption(caption, [one.arm for one in seen], comparison.arms),
        alt=f"Clusters of the classes, by arm. {'; '.join(told)}.",
        figure=figure,
        section="features",
    )


def _seen(arm: DrawnArm) -> _Seen | None:
    seen: _Seen | None = None
    scores = []
    for run, outputs in arm.outputs("student"):
        chosen = chosen_samples(outputs)
        features = _features(outputs, chosen)
        if features is None:
            continue
        target = outputs.target.numpy()[chosen]
        if seen is None:
            classes = len(np.unique(outputs.target))
            seen = _Seen(arm, run.summary.seed, embedded(features), target, [], outputs.class_names, classes)
        scores.append((run.summary.seed, silhouette(features, target)))
    if seen is not None:
        seen.scores = seed_means(scores)
    return seen


def chosen_samples(outputs: TestOutputs) -> NDArray[np.intp]:
    """Positions of at most :data:`MOST_SAMPLES` samples, of classes at equal distances where there are many."""
    target = outputs.target.numpy()
    classes = np.unique(target)
    if len(classes) > MOST_CLASSES:
        classes = classes[np.linspace(0, len(classes) - 1, MOST_CLASSES).astype(int)]
    positions = np.flatnonzero(np.isin(target, classes))
    if len(positions) > MOST_SAMPLES:
        positions = positions[np.linspace(0, len(positions) - 1, MOST_SAMPLES).astype(int)]
    return positions


def silhouette(features: NDArray[np.float32], target: NDArray[np.int64]) -> float:
    """The mean silhouette of features (N, D) under the classes (N,); NaN where there are too few of either."""
    from sklearn.metrics import silhouette_score

    if not 2 <= len(np.unique(target)) < len(target):
        return math.nan
    return float(silhouette_score(features, target))


def embedded(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features (N, D) in two dimensions, (N, 2), the same at each call."""
    from sklearn.manifold import TSNE

    perplexity = _perplexity(len(features))
    tsne = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", max_iter=_ITERATIONS, random_state=0)
    points: NDArray[np.float32] = tsne.fit_transform(features)
    return points


def _perplexity(samples: int) -> float:
    return min(_PERPLEXITY, (samples - 1) // 3)


def _features(outputs: TestOutputs, chosen: NDArray[np.intp]) -> NDArray[np.float32] | None:
    """Those of the chosen samples; ``None`` where there are none that say anything."""
    kept = outputs.networks["student"].features
    if kept is None or len(chosen) < _LEAST_SAMPLES or kept.shape[1] < 2:
        return None
    features: NDArray[np.float32] = kept.float().numpy()[chosen]
    return features if np.isfinite(features).all() and features.std(axis=0).any() else None


def _key(name: str, colour: str) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", linestyle="", color=colour, label=name)


def _scatter(panel: Axes, one: _Seen, names: list[str] | None) -> None:
    """The samples, with their classes' names among them where these are given."""
    from matplotlib.patheffects import withStroke

    groups = [(number, one.points[one.target == number]) for number in np.unique(one.target)]
    for (_, points), colour in zip(groups, CLASS_COLOURS, strict=False):
        panel.scatter(points[:, 0], points[:, 1], s=7, color=colour, linewidths=0, rasterized=True)
    for name, (_, points) in zip(names or (), groups, strict=False):  # above all points
        outline = [withStroke(linewidth=2.5, foreground="white")]
        x, y = np.median(points, axis=0)
        panel.text(
            x,
            y,
            name,
            color="#333333",
            ha="center",
            va="center",
            path_effects=outline,
        )
