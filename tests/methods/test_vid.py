import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import VID, vid_loss
from ctkd_lightning.methods._checks import pool_to_smaller
from ctkd_lightning.methods.vid import GaussianRegressor
from tests.methods import golden
from tests.methods.setting import SMALL, Setting

SETTINGS = {"vid": Setting(VID, lambda s, t: vid_loss(s, t, s.new_tensor([0.5, 1.0, 2.0])), SMALL, SMALL)}


def test_golden():
    regressor = golden.fill_weights(GaussianRegressor(6, 12))

    def loss(student):
        student, teacher = pool_to_smaller(student, golden.TEACHER_MAP)
        mean, variance = regressor(student)
        return vid_loss(mean, teacher, variance)

    golden.check("vid", loss, golden.STUDENT_MAP)


def test_is_the_gaussian_nll():
    mean, teacher = torch.randn(2, 3, 5, 4, 4)
    variance = torch.rand(5) + 0.1
    expected = torch.nn.functional.gaussian_nll_loss(mean, teacher, variance.view(-1, 1, 1).expand_as(mean))
    torch.testing.assert_close(vid_loss(mean, teacher, variance), expected)


@pytest.mark.parametrize("value", [2e-5, 5.0, 800.0, 1e6])
def test_initial_variance(value):
    _, variance = GaussianRegressor(2, 3, init_variance=value)(torch.zeros(1, 2, 1, 1))
    torch.testing.assert_close(variance, torch.full((3,), value))


def test_wrong_input():
    with pytest.raises(UserError, match=r"variance has shape \(1,\), expected one per channel \(3,\)"):
        vid_loss(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), torch.ones(1))
    with pytest.raises(UserError, match="VID's init_variance must be a finite number above 1e-05, found 0"):
        VID(init_variance=0)
