import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from ctkd_lightning.reporting.figures._comparison import Missing
from ctkd_lightning.reporting.figures.class_correlations import class_correlations, correlation_difference
from tests.reporting.figures.made_up import comparison, outputs, run

# two classes: the teacher's logits rise together (correlation 1), the student's against each other (−1)
TEACHER = [[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]]
STUDENT = [[0.0, 4.0], [1.0, 2.0], [2.0, 0.0]]


def test_correlations_in_closed_form(tmp_path):
    found = outputs([0, 1, 0], teacher=TEACHER, student=STUDENT)
    assert correlation_difference(found) == pytest.approx(np.array([[0, 2], [2, 0]]))
    picture = class_correlations(comparison(run(tmp_path, outputs=found)))
    panel = picture.figure.axes[0]
    assert np.asarray(panel.images[0].get_array()) == pytest.approx(np.array([[0, 2], [2, 0]]))
    assert picture.alt == "kd, global τ: mean absolute difference 1.0000."


def test_correlations_are_scipys():
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 40, 3, generator=generator).double()
    found = correlation_difference(outputs([0] * 40, teacher=teacher, student=student))
    teacher, student = teacher.float().numpy(), student.float().numpy()
    expected = pearsonr(teacher[:, 0], teacher[:, 2])[0] - pearsonr(student[:, 0], student[:, 2])[0]
    assert found[0, 2] == pytest.approx(expected, abs=1e-5)


def test_the_mean_over_seeds_is_drawn_and_their_spread_is_told(tmp_path):
    runs = [
        run(tmp_path, seed=seed, outputs=outputs([0, 1, 0], teacher=TEACHER, student=student))
        for seed, student in ((1, STUDENT), (2, TEACHER))
    ]
    picture = class_correlations(comparison(*runs))
    assert np.asarray(picture.figure.axes[0].images[0].get_array()) == pytest.approx(np.array([[0, 1], [1, 0]]))
    assert "0.5000 ± 0.7071" in picture.alt


@pytest.mark.parametrize("found", [None, outputs([0], student=[[1.0, 0.0]]), outputs([], teacher=[], student=[])])
def test_nothing_to_class_correlations(tmp_path, found):
    with pytest.raises(Missing, match=r"no run has kept .* keep_outputs=true, and a teacher"):
        class_correlations(comparison(run(tmp_path, outputs=found)))


@pytest.mark.filterwarnings("error")
def test_one_class_and_what_is_not_finite(tmp_path):
    one = outputs([0, 0], teacher=[[1.0], [2.0]], student=[[2.0], [1.0]])
    class_correlations(comparison(run(tmp_path, outputs=one)))
    broken = outputs([0, 1], teacher=[[1.0, 2.0], [2.0, 1.0]], student=[[torch.nan, 1.0], [2.0, 1.0]])
    with pytest.raises(Missing):  # one sample has no correlation
        class_correlations(comparison(run(tmp_path, seed=2, outputs=broken)))
