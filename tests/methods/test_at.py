import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import AT, at_loss
from tests.methods import golden
from tests.methods.setting import LARGE, SMALL, Setting

SETTINGS = {"at": Setting(AT, at_loss, SMALL, LARGE)}


def test_golden():
    golden.check("at", lambda s: at_loss(s, golden.TEACHER_MAP), golden.STUDENT_MAP)


def test_other_powers_take_absolute_values():
    maps = torch.randn(3, 4, 5, 5)
    assert at_loss(maps, -maps, p=3).item() == 0
    # one position of two active, against both alike: (1 - 1/√2)² and (1/√2)²
    one, both = torch.tensor([[[[-2.0, 0.0]]]]), torch.tensor([[[[3.0, -3.0]]]])
    assert at_loss(one, both, p=1).item() == pytest.approx(((1 - 0.5**0.5) ** 2 + 0.5) / 2)


def test_wrong_input():
    with pytest.raises(UserError, match=r"expected maps \(B, D, H, W\)"):
        at_loss(torch.zeros(2, 3), torch.zeros(2, 3))
