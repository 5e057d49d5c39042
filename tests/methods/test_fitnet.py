import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import FitNet, NetworkOutput, fitnet_loss
from tests.methods import golden
from tests.methods.setting import SMALL, Setting

SETTINGS = {"fitnet": Setting(FitNet, fitnet_loss, SMALL, SMALL)}


def test_golden():
    golden.check("hint(mse)", lambda s: fitnet_loss(s, golden.TEACHER_MAP_SAME), golden.STUDENT_MAP)


def test_the_hint_is_the_middle_stage():
    def output(width):
        return NetworkOutput(torch.zeros(2, 3), {f"stage{i}": torch.rand(2, width * i, 8, 8) for i in (1, 2, 3)})

    method = FitNet()
    method.build(output(3), output(5))
    assert method.adapter[0].weight.shape == (10, 6, 1, 1)


def test_wrong_input():
    with pytest.raises(UserError, match="expected the same shape; an adapter"):
        fitnet_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
