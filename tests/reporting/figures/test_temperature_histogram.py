import numpy as np
import pytest

from ctkd_lightning.job.temperatures import SampleTemperatures
from ctkd_lightning.reporting.figures._comparison import Missing
from ctkd_lightning.reporting.figures.temperature_histogram import binned, quantile, temperature_histogram
from tests.reporting.figures.made_up import comparison, run

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


def test_a_seed_that_ran_twice_counts_once(tmp_path):
    runs = [kept(run(tmp_path, "instance", seed), e1=counts) for seed, counts in (
        (1, [0, 4, 0, 0]), (1, [0, 4, 0, 0]), (2, [0, 0, 4, 0])
    )]  # fmt: skip
    mesh = temperature_histogram(comparison(*runs)).figure.axes[0].collections[0].get_array()
    assert mesh.filled(0).tolist() == [[50], [50]]


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
