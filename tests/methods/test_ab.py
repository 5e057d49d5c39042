import pytest
import torch

from ctkd_lightning.methods import AB, ab_loss
from tests.methods.setting import SMALL, Setting

SETTINGS = {"ab": Setting(AB, ab_loss, SMALL, SMALL)}


def test_value_by_value():
    student, teacher = 2 * torch.randn(2, 2, 3, 4, 4)
    total = 0.0
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        if t > 0 and s <= 1.5:
            total += (s - 1.5) ** 2
        if t <= 0 and s > -1.5:
            total += (s + 1.5) ** 2
    assert ab_loss(student, teacher, margin=1.5).item() == pytest.approx(total / 2, rel=1e-5)
