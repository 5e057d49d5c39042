import numpy as np
import pytest
import torch

from ctkd_lightning.reporting.figures._comparison import Missing
from ctkd_lightning.reporting.figures.class_accuracy import accuracy_difference, agreement, class_accuracy
from tests.reporting.figures.made_up import comparison, outputs, run

# of class 0 (3 samples) the teacher knows 3, the student 1; of class 1 (2 samples) the teacher 0, the student 2
TARGET = [0, 0, 0, 1, 1]
GUESSES = {"teacher": [0, 0, 0, 0, 0], "student": [0, 1, 1, 1, 1]}


def guessing(classes=2, **roles):
    return outputs(
        TARGET,
        names=["zero", "one", "two"][:classes],
        **{role: torch.eye(classes)[guesses] for role, guesses in roles.items()},
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


@pytest.mark.parametrize("found", [None, outputs([0], student=[[1.0, 0.0]]), outputs([], teacher=[], student=[])])
def test_nothing_to_class_accuracy(tmp_path, found):
    with pytest.raises(Missing, match=r"no run has kept .* keep_outputs=true, and a teacher"):
        class_accuracy(comparison(run(tmp_path, outputs=found)))


@pytest.mark.filterwarnings("error")
def test_one_class_and_what_is_not_finite(tmp_path):
    one = outputs([0, 0], teacher=[[1.0], [2.0]], student=[[2.0], [1.0]])
    class_accuracy(comparison(run(tmp_path, outputs=one)))
    broken = outputs([0, 1], teacher=[[1.0, 2.0], [2.0, 1.0]], student=[[torch.nan, 1.0], [2.0, 1.0]])
    class_accuracy(comparison(run(tmp_path, seed=2, outputs=broken)))
