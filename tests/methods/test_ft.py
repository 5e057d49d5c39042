import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods import FT, NetworkOutput, ft_loss
from ctkd_lightning.temperature import Softening
from tests.methods import golden
from tests.methods.setting import LARGE, SMALL, Setting

SETTINGS = {"ft": Setting(FT, ft_loss, SMALL, LARGE)}


def test_golden():
    golden.check("ft", lambda s: ft_loss(s, golden.TEACHER_MAP_SAME), golden.STUDENT_MAP)


def test_paraphraser_learns_by_reconstruction_alone():
    torch.manual_seed(0)
    student, teacher = (NetworkOutput(torch.zeros(4, 3), {"last": torch.rand(4, d, 6, 6)}) for d in (3, 5))
    losses = {}
    for weight in (200.0, 50.0):
        torch.manual_seed(0)
        method = FT(weight=weight)
        method.build(student, teacher)
        (method(student, teacher, Step(), Softening.at(4.0, torch.zeros(4, 3))) * method.weight).backward()
        losses[weight] = method.paraphraser[0].weight.grad, method.translator[0].weight.grad
    # whatever the term's weight, the reconstruction keeps its own
    torch.testing.assert_close(losses[200.0][0], losses[50.0][0])
    torch.testing.assert_close(losses[200.0][1], 4 * losses[50.0][1])


def test_wrong_input():
    with pytest.raises(UserError, match="FT's rate must be a finite number above 0, found 0"):
        FT(rate=0.0)
