import math

import pytest
import torch

from ctkd_lightning.reporting.figures._comparison import Missing
from ctkd_lightning.reporting.figures.reliability import calibration_error, judged, reliability, reliability_curve
from tests.reporting.figures.made_up import comparison, drawn, outputs, run


def sure(share):
    """Logits of two classes of which the first has this probability."""
    return [math.log(share / (1 - share)), 0.0]


def by_hand(confidence, right, bins=15):
    """Guo et al. 2017, equation 3, in loops."""
    error = 0.0
    for b in range(bins):
        inside = [i for i, c in enumerate(confidence) if b / bins < c <= (b + 1) / bins]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            mean = sum(confidence[i] for i in inside) / len(inside)
            error += len(inside) / len(confidence) * abs(accuracy - mean)
    return 100 * error


def test_ece_is_that_of_the_paper():
    generator = torch.Generator().manual_seed(0)
    found = outputs(torch.randint(5, (300,), generator=generator), student=torch.randn(300, 5, generator=generator))
    confidence, right = judged(found.networks["student"], found.target)
    probabilities = found.networks["student"].logits.softmax(1)
    assert confidence.tolist() == pytest.approx(probabilities.max(1).values.tolist())
    assert calibration_error(confidence, right) == pytest.approx(by_hand(confidence.tolist(), right.tolist()), rel=1e-4)


def test_a_curve_by_hand():
    confidence = torch.tensor([0.51, 0.52, 0.98, 0.99, 0.97, 1.0])
    right = torch.tensor([True, False, True, True, True, False])
    mean, accuracy, samples = reliability_curve(confidence, right)
    assert mean == pytest.approx([0.515, 0.985])
    assert accuracy == pytest.approx([0.5, 0.75])
    assert samples.tolist() == [2, 4]


def test_teacher_students_and_student_alone(tmp_path):
    found = outputs([0, 0, 1], teacher=[sure(0.9)] * 3, student=[sure(0.8)] * 3, baseline=[sure(0.7)] * 3)
    runs = [run(tmp_path, "fixed", outputs=found), run(tmp_path, "global", outputs=found)]
    alone = run(tmp_path, alone=True, outputs=outputs([0, 0, 0], student=[sure(0.7)] * 3))
    picture = reliability(comparison(alone, *runs))
    (axes,) = picture.figure.axes
    lines = {label.split(":")[0]: points for label, points in drawn(axes).items()}
    assert lines["teacher"] == (pytest.approx([0.9], abs=1e-3), pytest.approx([2 / 3]))
    assert lines["kd, global τ"] == (pytest.approx([0.8], abs=1e-3), pytest.approx([2 / 3]))
    # the runs' students alone and the run of method=none together: 7 of 9 right
    assert lines["student alone"] == (pytest.approx([0.7], abs=1e-3), pytest.approx([7 / 9]))
    assert list(lines)[1:] == ["teacher", "kd, fixed τ", "kd, global τ", "student alone"]
    assert "teacher: ECE 23.3" in picture.alt
    assert "student alone: ECE 12.2" in picture.alt  # mean of |2/3 − 0.7| twice and |1 − 0.7| once


def test_one_class_one_sample_and_what_is_not_finite(tmp_path):
    reliability(comparison(run(tmp_path, outputs=outputs([0], teacher=[[1.0]], student=[[2.0]]))))
    found = outputs([0, 0], student=[sure(0.9), [torch.nan, 0.0]], teacher=[[torch.nan, 0.0]] * 2)
    (axes,) = reliability(comparison(run(tmp_path, outputs=found))).figure.axes
    assert [label.split(":")[0] for label in list(drawn(axes))[1:]] == ["kd, global τ"]


@pytest.mark.parametrize("found", [None, outputs([0], student=[[torch.nan, 0.0]]), outputs([], student=[])])
def test_nothing_to_draw(tmp_path, found):
    with pytest.raises(Missing, match="keep_outputs=true"):
        reliability(comparison(run(tmp_path, outputs=found)))
