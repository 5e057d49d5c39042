import math

import pytest
import torch

from ctkd_lightning.job.quality import quality
from ctkd_lightning.reporting.figures._comparison import Missing
from ctkd_lightning.reporting.figures.reliability import binned, reliability, reliability_curve
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


def test_ece_is_that_of_the_paper_and_of_the_evaluation(tmp_path):
    generator = torch.Generator().manual_seed(0)
    found = outputs(torch.randint(5, (300,), generator=generator), student=torch.randn(300, 5, generator=generator))
    confidence, guess = found.networks["student"].logits.softmax(1).max(1)
    expected = by_hand(confidence.tolist(), (guess == found.target).tolist())
    picture = reliability(comparison(run(tmp_path, outputs=found)))
    assert f"kd, global τ: ECE {expected:.2f} %" in picture.alt
    # and as evaluations have it, which the page shows beside it
    assert f"{100 * quality(found.networks['student'].logits, found.target).ece:.2f}" == f"{expected:.2f}"


def test_a_curve_by_hand():
    confidence = torch.tensor([0.51, 0.52, 0.98, 0.99, 0.97, 1.0])
    right = torch.tensor([True, False, True, True, True, False])
    mean, accuracy, samples = reliability_curve(binned(confidence, right))
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


def test_teachers_and_students_alone_of_other_settings_are_kept_apart(tmp_path):
    def made(tau, epochs, teacher_right, alone_right):
        found = outputs([0, 0], teacher=[sure(0.9)] * 2, student=[sure(0.8)] * 2, baseline=[sure(0.7)] * 2)
        found.networks["teacher"].logits[1] *= 1 if teacher_right else -1
        found.networks["baseline"].logits[1] *= 1 if alone_right else -1
        settings = {"max_epochs": epochs, "teacher": {"max_epochs": epochs}, "temperature": {"tau": tau}}
        return run(tmp_path, "fixed", outputs=found, settings=settings)

    runs = [made(2.0, 1, False, False), made(4.0, 1, False, False), made(2.0, 9, True, True)]
    lines = {line.rpartition(":")[0] for line in drawn(reliability(comparison(*runs)).figure.axes[0])}
    lines = {" ".join(line.split()) for line in lines}
    assert {line for line in lines if line.startswith(("teacher", "student"))} == {
        "teacher, teacher.max_epochs=1", "teacher, teacher.max_epochs=9",
        "student alone, max_epochs=1", "student alone, max_epochs=9",
    }  # fmt: skip


def test_a_seed_that_ran_twice_counts_once(tmp_path):
    right, wrong = (outputs([target], student=[sure(0.8)]) for target in (0, 1))
    runs = [run(tmp_path, seed=seed, outputs=found) for seed, found in ((1, right), (1, right), (2, wrong))]
    picture = reliability(comparison(*runs))
    points = next(points for label, points in drawn(picture.figure.axes[0]).items() if label.startswith("kd, global"))
    assert points == (pytest.approx([0.8], abs=1e-3), pytest.approx([0.5]))
    assert "kd, global τ: ECE 50.00 ± 42.4" in picture.alt  # of 20 and 80, less what float16 leaves out
    assert "Mean over 2 seeds" in picture.caption


def test_one_class_one_sample_and_what_is_not_finite(tmp_path):
    reliability(comparison(run(tmp_path, outputs=outputs([0], teacher=[[1.0]], student=[[2.0]]))))
    found = outputs([0, 0], student=[sure(0.9), [torch.nan, 0.0]], teacher=[[torch.nan, 0.0]] * 2)
    (axes,) = reliability(comparison(run(tmp_path, outputs=found))).figure.axes
    assert [label.split(":")[0] for label in list(drawn(axes))[1:]] == ["kd, global τ"]


@pytest.mark.parametrize("found", [None, outputs([0], student=[[torch.nan, 0.0]]), outputs([], student=[])])
def test_nothing_to_draw(tmp_path, found):
    with pytest.raises(Missing, match="keep_outputs=true"):
        reliability(comparison(run(tmp_path, outputs=found)))
