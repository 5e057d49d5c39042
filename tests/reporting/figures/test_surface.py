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
