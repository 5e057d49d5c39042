import numpy as np
import pytest
import torch

from ctkd_lightning.job.temperatures import SampleTemperatures
from ctkd_lightning.reporting.figures._comparison import Missing
from ctkd_lightning.reporting.figures.samples import (
    binned,
    ends,
    quantile,
    temperature_extremes,
    temperature_histogram,
)
from tests.reporting.figures.made_up import comparison, outputs, run

EDGES = np.geomspace(1, 16, 5)  # bins from 1, 2, 4, 8


def kept(found, **epochs):
    SampleTemperatures(EDGES, {int(e[1:]): np.array(c) for e, c in epochs.items()}).write(found.files)
    return found


def test_shares_by_epoch_over_the_seeds(tmp_path):
    runs = [
        kept(run(tmp_path, "instance", 1), e1=[0, 4, 0, 0], e2=[0, 1, 3, 0]),
        kept(run(tmp_path, "instance", 2), e1=[0, 4, 0, 0], e2=[0, 3, 1, 0]),
    ]
    picture = temperature_histogram(comparison(run(tmp_path, "fixed"), *runs))
    panel = picture.figure.axes[0]
    mesh = panel.collections[0].get_array()
    assert mesh.filled(0).tolist() == [[100, 50], [0, 50]]  # τ up, epochs to the right
    assert mesh.mask.tolist() == [[False, False], [True, False]]
    assert panel.lines[0].get_ydata() == pytest.approx([8**0.5, 8**0.5])  # the middle of 2 to 4
    assert panel.get_title() == "kd, instance τ"
    assert "median τ 2.83 in epoch 1" in picture.alt


def test_fine_bins_are_put_together():
    fine = np.geomspace(1, 2, 101)
    counts = np.zeros(100, int)
    counts[1:99] = 1
    epochs, edges, shares = binned(SampleTemperatures(fine, {3: counts}))
    assert epochs == [3]
    assert len(edges) == 34  # 98 bins by threes, the last has two
    assert (edges[0], edges[-1]) == (fine[1], fine[100])
    assert shares[0] == pytest.approx([3 / 98] * 32 + [2 / 98])


def test_quantiles_are_within_a_bin_of_numpys():
    taus = np.exp(np.random.default_rng(0).normal(1.0, 0.3, 1000))
    fine = np.geomspace(0.1, 100, 1001)
    found = SampleTemperatures(fine, {1: np.histogram(taus, fine)[0]})
    for share in (0.05, 0.5, 0.95):
        assert quantile(found, 1, share) == pytest.approx(np.quantile(taus, share), rel=0.02)


def test_no_histogram(tmp_path):
    with pytest.raises(Missing, match="temperature=instance"):
        temperature_histogram(comparison(run(tmp_path), kept(run(tmp_path, "instance"), e1=[0, 0, 0, 0])))


def pictured(samples=20, each=8):
    tau = torch.linspace(1, 5, samples)[torch.randperm(samples, generator=torch.Generator().manual_seed(0))]
    order = tau.argsort().tolist()
    pictures = {p: torch.full((3, 4, 4), p, dtype=torch.uint8) for p in dict.fromkeys([*order[:each], *order[-each:]])}
    right, wrong = torch.eye(2)[[0] * samples], torch.eye(2)[[1] * samples]
    return outputs([0] * samples, tau=tau, pictures=pictures, names=["cat", "$dog$"], teacher=right, student=wrong)


def test_the_images_at_both_ends(tmp_path):
    found = pictured()
    order = found.tau.argsort().tolist()
    assert ends(found) == (order[:8], order[-8:])
    picture = temperature_extremes(comparison(run(tmp_path), run(tmp_path, "instance", outputs=found)))
    panels = [axes for axes in picture.figure.axes if axes.images]
    assert [int(axes.images[0].get_array()[0, 0, 0]) for axes in panels] == [*order[:8], *order[-8:]]
    assert [float(axes.get_title()[2:]) for axes in panels] == pytest.approx(
        found.tau[[*order[:8], *order[-8:]]].tolist(), abs=0.006
    )
    assert [text.get_text() for text in panels[0].texts] == ["label cat", "teacher cat", r"student \$dog\$ ✗"]
    assert "8 with the lowest τ, 1 to 2.47: the teacher is wrong in 0, the student in 8" in picture.alt


def test_few_samples_are_shown_once(tmp_path):
    found = pictured(samples=3)
    assert [len(end) for end in ends(found)] == [2, 1]
    picture = temperature_extremes(comparison(run(tmp_path, "instance", outputs=found)))
    assert sum(bool(axes.images) for axes in picture.figure.axes) == 3
    single = temperature_extremes(comparison(run(tmp_path, "instance", outputs=pictured(samples=1))))
    assert sum(bool(axes.images) for axes in single.figure.axes) == 1


def test_no_images(tmp_path):
    with pytest.raises(Missing, match="temperature=instance keep_outputs=true"):
        temperature_extremes(comparison(run(tmp_path, outputs=outputs([0], teacher=[[1.0]], student=[[1.0]]))))
