import pytest
import torch

from ctkd_lightning.methods import TTM, WTTM, ttm_loss, wttm_loss
from tests.methods import golden
from tests.methods.setting import Setting

SETTINGS = {"ttm": Setting(TTM, ttm_loss), "wttm": Setting(WTTM, wttm_loss)}


@pytest.mark.parametrize("tau", [torch.tensor(5.0), torch.linspace(1, 8, 8)])
def test_are_the_papers_power_transforms(tau):
    student, teacher = golden.STUDENT_LOGITS, golden.TEACHER_LOGITS
    powers = teacher.softmax(1) ** (1 / tau.reshape(-1, 1))
    p = powers / powers.sum(dim=1, keepdim=True)
    divergence = torch.nn.functional.kl_div(student.log_softmax(1), p, reduction="none").sum(dim=1)
    torch.testing.assert_close(ttm_loss(student, teacher, tau), divergence.mean())
    torch.testing.assert_close(wttm_loss(student, teacher, tau), (powers.sum(dim=1) * divergence).mean())
