import pytest
import torch

from ctkd_lightning.methods import NormKD, normkd_loss
from tests.methods import golden
from tests.methods.setting import Setting

SETTINGS = {"normkd": Setting(NormKD, normkd_loss)}


@pytest.mark.parametrize("tau", [torch.tensor(2.0), torch.linspace(1, 8, 8)])
def test_is_the_papers_divergence(tau):
    student, teacher = golden.STUDENT_LOGITS, golden.TEACHER_LOGITS
    tau_s, tau_t = (tau * x.std(dim=1) for x in (student, teacher))
    q, p = (student / tau_s[:, None]).log_softmax(1), (teacher / tau_t[:, None]).softmax(1)
    divergence = torch.nn.functional.kl_div(q, p, reduction="none").sum(dim=1)
    torch.testing.assert_close(normkd_loss(student, teacher, tau), (tau_t**2 * divergence).mean())


def test_floor_of_the_deviation_in_the_softmax():
    student, teacher = 1e-4 * torch.randn(2, 4, 5, dtype=torch.float64)
    q, p = (x / (2 * (x.var(1, keepdim=True) + 1e-8 / 4).sqrt()) for x in (student, teacher))
    divergence = torch.nn.functional.kl_div(q.log_softmax(1), p.softmax(1), reduction="none").sum(dim=1)
    torch.testing.assert_close(normkd_loss(student, teacher, 2.0), (4 * teacher.var(1) * divergence).mean())
