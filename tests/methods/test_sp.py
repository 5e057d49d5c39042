import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import SP, sp_loss
from tests.methods import golden
from tests.methods.setting import LARGE, SMALL, Setting

SETTINGS = {"sp": Setting(SP, sp_loss, SMALL, LARGE)}


def test_golden():
    golden.check("sp", lambda s: sp_loss(s, golden.TEACHER_MAP), golden.STUDENT_MAP)


def test_orthogonal_against_identical_samples():
    # Gram rows e_i against 1/√B: (1/B²)·B·((1 − 1/√B)² + (B − 1)/B) = (2 − 2/√B)/B
    assert sp_loss(torch.eye(9), torch.ones(9, 2)).item() == pytest.approx((2 - 2 / 3) / 9)


def test_wrong_input():
    with pytest.raises(UserError, match="of the same batch"):
        sp_loss(torch.zeros(2, 3), torch.zeros(3, 3))
