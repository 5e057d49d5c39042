import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import NetworkOutput
from ctkd_lightning.methods import MLKD, kd_loss, mlkd_loss
from tests.methods import golden
from tests.methods.setting import Setting

SETTINGS = {"mlkd": Setting(MLKD, mlkd_loss)}


def test_is_the_sum_of_the_papers_three_levels():
    student, teacher = golden.STUDENT_LOGITS, golden.TEACHER_LOGITS
    expected = 0.0
    for tau in (2.0, 3.0, 4.0, 5.0, 6.0):
        q, p = (student / tau).softmax(1), (teacher / tau).softmax(1)
        expected += kd_loss(student, teacher, tau).item()
        for i in range(8):  # between samples
            expected += sum(((q[i] @ q[j] - p[i] @ p[j]) ** 2).item() for j in range(8)) / 8
        for c in range(10):  # between classes
            expected += sum(((q[:, c] @ q[:, d] - p[:, c] @ p[:, d]) ** 2).item() for d in range(10)) / 10
    assert mlkd_loss(student, teacher, 4.0).item() == pytest.approx(expected)


def test_wrong_input():
    with pytest.raises(UserError, match="each of MLKD's factors must be a finite number above 0, found 0"):
        mlkd_loss(torch.zeros(2, 3), torch.zeros(2, 3), 4.0, factors=(1.0, 0))
    with pytest.raises(UserError, match=r"MLKD's factors must be one number or more in a list, found \[\]"):
        MLKD(factors=[])
    with pytest.raises(UserError, match="MLKD's factors must be one number or more in a list, found 1"):
        MLKD(factors=1)
    with pytest.raises(UserError, match=r"student logits have shape \(2, 3, 4\) .* expected \(B, C\)"):
        mlkd_loss(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), 4.0)


def test_refuses_maps_before_the_training():
    maps = NetworkOutput(torch.zeros(2, 16, 16, 5))
    with pytest.raises(UserError, match=r"logits \(2, 16, 16, 5\) have a row a position: .* take KD, DIST"):
        MLKD().build(maps, maps)
    rows = NetworkOutput(torch.zeros(2, 5))
    MLKD().build(rows, rows)
