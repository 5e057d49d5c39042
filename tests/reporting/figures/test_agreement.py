import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from ctkd_lightning.reporting.figures._comparison import Missing
from ctkd_lightning.reporting.figures.agreement import (
    accuracy_difference,
    agreement,
    class_accuracy,
    class_correlations,
    correlation_difference,
)
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


# of class 0 (3 samples) the teacher knows 3, the student 1; of class 1 (2 samples) the teacher 0, the student 2
TARGET = [0, 0, 0, 1, 1]
GUESSES = {"teacher": [0, 0, 0, 0, 0], "student": [0, 1, 1, 1, 1]}


def guessing(classes=2, **roles):
    return outputs(
        TARGET, names=["zero", "one"], **{role: torch.eye(classes)[guesses] for role, guesses in roles.items()}
    )


def test_accuracy_by_class(tmp_path):
    found = guessing(**GUESSES)
    assert accuracy_difference(found) == pytest.approx([-200 / 3, 100])
    assert agreement(found) == pytest.approx(20)
    picture = class_accuracy(comparison(run(tmp_path, outputs=found)))
    (axes,) = picture.figure.axes
    assert axes.lines[0].get_xdata() == pytest.approx([-200 / 3, 100])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["zero", "one"]
    assert "from -66.7 points in class zero to +100.0 in class one" in picture.alt
    assert "same guess as the teacher in 20.0 %" in picture.alt


def test_a_class_without_samples(tmp_path):
    found = guessing(classes=3, **GUESSES)
    assert np.isnan(accuracy_difference(found)[2])
    (axes,) = class_accuracy(comparison(run(tmp_path, outputs=found))).figure.axes
    assert axes.lines[0].get_xdata() == pytest.approx([-200 / 3, 100])


def test_of_many_classes_the_worst_and_the_best(tmp_path):
    target = torch.arange(50)
    student = torch.eye(50)
    student[:15] = torch.eye(50)[49]  # of the first 15 classes nothing is known
    found = outputs(target, teacher=torch.eye(50), student=student)
    picture = class_accuracy(comparison(run(tmp_path, outputs=found)))
    (axes,) = picture.figure.axes
    assert axes.lines[0].get_xdata().tolist() == [-100] * 10 + [0] * 10
    assert "The 10 worst and the 10 best of 50 classes" in picture.caption


@pytest.mark.parametrize("draw", [class_correlations, class_accuracy])
@pytest.mark.parametrize("found", [None, outputs([0], student=[[1.0, 0.0]]), outputs([], teacher=[], student=[])])
def test_nothing_to_draw(tmp_path, draw, found):
    with pytest.raises(Missing, match=r"no run has kept .* keep_outputs=true, and a teacher"):
        draw(comparison(run(tmp_path, outputs=found)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("draw", [class_correlations, class_accuracy])
def test_one_class_and_what_is_not_finite(tmp_path, draw):
    one = outputs([0, 0], teacher=[[1.0], [2.0]], student=[[2.0], [1.0]])
    draw(comparison(run(tmp_path, outputs=one)))
    broken = outputs([0, 1], teacher=[[1.0, 2.0], [2.0, 1.0]], student=[[torch.nan, 1.0], [2.0, 1.0]])
    try:
        draw(comparison(run(tmp_path, outputs=broken)))
    except Missing:
        assert draw is class_correlations  # one sample has no correlation
