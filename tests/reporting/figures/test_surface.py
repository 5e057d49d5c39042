import math

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from ctkd_lightning.reporting.figures._comparison import Missing
from ctkd_lightning.reporting.figures.surface import loss_surface
from tests.reporting.figures.made_up import comparison, outputs, run

TEACHER, STUDENT = [[3.0, 0.0, -1.0], [0.5, 1.0, 2.0]], [[1.0, 0.5, 0.0], [0.0, 1.0, 0.0]]
END = "ctkd/temperature"


def kd(tau):
    """By SciPy."""
    p, q = (softmax(np.array(logits) / tau, axis=1) for logits in (TEACHER, STUDENT))
    return tau**2 * rel_entr(p, q).sum(axis=1).mean()


def test_the_curve_is_scipys_with_the_temperature_at_the_end(tmp_path):
    found = outputs([0, 1], teacher=TEACHER, student=STUDENT)
    picture = loss_surface(comparison(run(tmp_path, outputs=found, final={END: 7.0})))
    (axes,) = picture.figure.axes
    taus, losses = axes.lines[0].get_data()
    assert losses == pytest.approx([kd(tau) for tau in taus], rel=1e-4)
    (tau,), (loss,) = axes.lines[1].get_data()
    assert (tau, loss) == (7.0, pytest.approx(kd(7.0), rel=1e-4))
    assert "ended at τ = 7.00" in picture.alt
    assert axes.get_xscale() == "log"


def test_the_mean_over_seeds_and_each_ones_end(tmp_path):
    found = outputs([0, 1], teacher=TEACHER, student=STUDENT)
    same = outputs([0, 1], teacher=TEACHER, student=TEACHER)  # KD is 0
    runs = [run(tmp_path, seed=s, outputs=o, final={END: 2.0 * s}) for s, o in ((1, found), (2, same))]
    (axes,) = loss_surface(comparison(*runs)).figure.axes
    taus, losses = axes.lines[0].get_data()
    assert losses == pytest.approx([kd(tau) / 2 for tau in taus], rel=1e-4, abs=1e-7)
    assert axes.lines[1].get_xdata() == pytest.approx([2, 4])
    assert axes.lines[1].get_ydata() == pytest.approx([kd(2.0), 0], abs=1e-6)


@pytest.mark.parametrize(
    ("temperature", "method", "settings"),
    [("normkd", "kd", {}), ("global", "normkd", {}), ("fixed", "dkd", {}), ("fixed", "crd", {}),
     ("global", "kd", {"temperature_per_method": True})],
)  # fmt: skip
def test_no_point_where_another_function_was_trained(tmp_path, temperature, method, settings):
    found = outputs([0, 1], teacher=TEACHER, student=STUDENT)
    plain = run(tmp_path, "fixed", outputs=found, final={END: 4.0})
    other = run(tmp_path, temperature, method=method, outputs=found, final={END: 7.0}, settings=settings)
    picture = loss_surface(comparison(plain, other))
    points = [line.get_xdata().tolist() for line in picture.figure.axes[0].lines if line.get_marker() == "o"]
    assert points == [[4.0]]
    name = f"{method}, {temperature} τ"
    assert f"Without a point: {name}" in picture.caption
    assert "not KD at one τ" in picture.caption
    assert picture.alt.count("ended at") == 1
    alone = loss_surface(comparison(other)).caption
    assert "Points are" not in alone


def test_kd_beside_a_method_of_features_has_its_point(tmp_path):
    terms = {name: {"_target_": f"ctkd_lightning.methods.{name.upper()}"} for name in ("kd", "crd")}
    found = outputs([0, 1], teacher=TEACHER, student=STUDENT)
    picture = loss_surface(
        comparison(run(tmp_path, outputs=found, final={END: 7.0}, settings={"method": {"terms": terms}}))
    )
    assert "Without a point" not in picture.caption
    assert "ended at τ = 7.00" in picture.alt


def test_the_end_is_of_all_runs_each_seed_once(tmp_path):
    found = outputs([0, 1], teacher=TEACHER, student=STUDENT)
    ends = [(1, 2.0), (1, 4.0), *((seed, 5.0) for seed in range(2, 8)), (8, 9.0)]  # more than the outputs looked at
    picture = loss_surface(comparison(*(run(tmp_path, seed=s, outputs=found, final={END: end}) for s, end in ends)))
    assert "ended at τ = 5.25 ± 1.67" in picture.alt  # of 3, 5, 5, 5, 5, 5, 5, 9


def test_without_an_end_with_one_class_and_with_what_is_not_finite(tmp_path):
    found = outputs([0, 1], teacher=TEACHER, student=[STUDENT[0], [math.nan, 0.0, 0.0]])
    picture = loss_surface(comparison(run(tmp_path, outputs=found, final={END: math.nan})))
    assert "of 1 test samples" in picture.caption
    assert len(picture.figure.axes[0].lines) == 1
    one = outputs([0], teacher=[[1.0]], student=[[2.0]])
    assert not loss_surface(comparison(run(tmp_path, outputs=one))).figure.axes[0].lines[0].get_ydata().any()


@pytest.mark.parametrize(
    "found", [None, outputs([0], student=[[1.0]]), outputs([0], student=[[1.0]], teacher=[[torch.nan]])]
)
def test_nothing_to_draw(tmp_path, found):
    with pytest.raises(Missing, match="keep_outputs=true, and a teacher"):
        loss_surface(comparison(run(tmp_path, outputs=found)))
