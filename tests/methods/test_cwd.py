import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import CWD, NetworkOutput, Step, cwd_loss
from ctkd_lightning.temperature import Softening
from tests.methods import golden
from tests.methods.setting import LARGE, SMALL, Setting

SETTINGS = {"cwd": Setting(CWD, cwd_loss, SMALL, SMALL)}


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_divergences_of_scipy(tau):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 5, 6, generator=generator, dtype=torch.float64)
    expected = 0.0
    for i in range(3):
        for d in range(4):
            p, q = (softmax(x[i, d].numpy().ravel() / tau) for x in (teacher, student))
            expected += tau**2 * entropy(p, q) / (3 * 4)
    assert cwd_loss(student, teacher, tau).item() == pytest.approx(expected, rel=1e-12)


def test_a_channels_level_means_nothing():
    maps = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert cwd_loss(maps + torch.randn(2, 3, 1, 1), maps).item() == pytest.approx(0, abs=1e-14)


def test_other_widths_and_sizes():
    method = CWD(tau=2.0)
    student, teacher = (
        NetworkOutput(golden.STUDENT_LOGITS.float(), {"last": torch.randn(8, *shape)}) for shape in (SMALL, LARGE)
    )
    method.build(student, teacher)
    found = method(student, teacher, Step(), Softening.at(1.0, student.logits))
    pooled = torch.nn.functional.adaptive_avg_pool2d(teacher.features["last"], 4)
    adapted = torch.einsum("oi,bihw->bohw", next(method.parameters())[:, :, 0, 0], student.features["last"])
    torch.testing.assert_close(found, cwd_loss(adapted, pooled, 2.0))
    method.build(student, student)
    assert not list(method.parameters())


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan")])
def test_a_tau_that_cannot_be(tau):
    with pytest.raises(UserError, match="CWD's tau"):
        CWD(tau=tau)
    with pytest.raises(UserError, match="CWD's tau"):
        cwd_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), tau)


def test_maps_alone():
    with pytest.raises(UserError, match=r"expected maps \(B, D, H, W\)"):
        cwd_loss(torch.zeros(2, 3), torch.zeros(2, 3))
