import math

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from sklearn.metrics import silhouette_score

from ctkd_lightning.reporting.figures import features as module
from ctkd_lightning.reporting.figures._comparison import Missing
from ctkd_lightning.reporting.figures.features import chosen_samples, embedded, embedding, silhouette
from tests.reporting.figures.made_up import comparison, outputs, run


def clusters(seed, apart, samples=30, classes=3):
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(samples) % classes
    features = torch.randn(samples, 6, generator=generator)
    features[torch.arange(samples), target] += apart
    return outputs(target, features.half(), student=torch.zeros(samples, classes), names=["a", "b", "$c$"][:classes])


def test_scores_are_scikit_learns_over_the_seeds_and_points_those_of_the_first(tmp_path):
    kept = {("fixed", 1): clusters(0, 2), ("fixed", 2): clusters(1, 2), ("global", 1): clusters(2, 9)}
    picture = embedding(comparison(*(run(tmp_path, *key, outputs=found) for key, found in kept.items())))
    scores = {
        key: silhouette_score(found.networks["student"].features.float().numpy(), found.target.numpy())
        for key, found in kept.items()
    }
    fixed = [scores["fixed", 1], scores["fixed", 2]]
    left, right = picture.figure.axes
    assert left.get_title() == f"kd, fixed τ\nsilhouette {np.mean(fixed):.3f} ± {np.std(fixed, ddof=1):.3f}"
    assert right.get_title() == f"kd, global τ\nsilhouette {scores['global', 1]:.3f}"
    assert f"kd, global τ: silhouette {scores['global', 1]:.3f}" in picture.alt
    assert scores["global", 1] > max(fixed) + 0.1  # classes that are farther apart score higher
    points = np.concatenate([c.get_offsets() for c in left.collections])
    assert points.shape == (30, 2)
    assert [text.get_text() for text in left.texts] == ["a", "b", r"\$c\$"]


def test_long_names_stand_below(tmp_path):
    found = clusters(0, 2)
    found.class_names = ["n02206856", "n03733131", "n04149813"]
    picture = embedding(comparison(run(tmp_path, outputs=found)))
    assert not picture.figure.axes[0].texts
    (legend,) = picture.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == found.class_names
    colours = [c.get_facecolor()[0][:3].tolist() for c in picture.figure.axes[0].collections]
    assert [list(to_rgb(h.get_color())) for h in legend.legend_handles] == colours


def test_the_same_picture_each_time_and_classes_stay_together():
    found = clusters(0, 9).networks["student"].features.float().numpy()
    points = embedded(found)
    assert (points == embedded(found)).all()
    target = np.arange(30) % 3
    assert silhouette(points, target) > 0.5
    assert math.isnan(silhouette(points, np.zeros(30)))
    assert math.isnan(silhouette(points, np.arange(30)))


def test_many_classes_and_samples_are_sampled_evenly():
    many = outputs(torch.arange(5000) % 100)
    chosen = chosen_samples(many)
    assert np.unique(chosen % 100).tolist() == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    assert len(chosen) == 500
    assert len(chosen_samples(outputs(torch.arange(5000) % 4))) == 500


def test_at_most_four_panels_and_the_rest_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "embedded", lambda features: features[:, :2])
    arms = ["fixed", "global", "instance", "lskd", "normkd"]
    picture = embedding(comparison(*(run(tmp_path, arm, outputs=clusters(0, 2)) for arm in arms)))
    assert len(picture.figure.axes) == 4
    assert picture.caption.endswith("1 more arm is not drawn.")


@pytest.mark.parametrize(
    "found",
    [
        None,
        outputs([0, 1, 0, 1, 0, 1], student=torch.zeros(6, 2)),  # no features
        outputs([0, 1, 0, 1, 0, 1], torch.ones(6, 3), student=torch.zeros(6, 2)),  # all the same
        outputs([0, 1, 0, 1, 0, 1], torch.full((6, 3), torch.nan), student=torch.zeros(6, 2)),
        outputs([0, 1], torch.eye(2), student=torch.zeros(2, 2)),  # too few
    ],
)
def test_nothing_to_draw(tmp_path, found):
    with pytest.raises(Missing, match="keep_outputs=true, with a student whose last layer is linear"):
        embedding(comparison(run(tmp_path, outputs=found)))


def test_one_class(tmp_path):
    found = outputs([0] * 8, torch.arange(24).view(8, 3) % 7, student=torch.zeros(8, 1))
    (axes,) = embedding(comparison(run(tmp_path, outputs=found))).figure.axes
    assert axes.get_title() == "kd, global τ\nsilhouette –"
