import math

import pytest
import torch
from torch.nn import functional as F

from ctkd_lightning import Softening
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import CWD, NetworkOutput, Step, cwd_loss
from tests.methods.setting import SMALL, Setting

SETTINGS = {"cwd": Setting(CWD, cwd_loss, SMALL, SMALL)}


def maps(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


def by_loops(student, teacher, tau):
    """Channel by channel, from the definition of the divergence."""
    total = 0.0
    for own, guide in zip(student.flatten(0, 1).flatten(1), teacher.flatten(0, 1).flatten(1), strict=True):
        q = [math.exp(float(x) / tau) for x in own]
        p = [math.exp(float(x) / tau) for x in guide]
        total += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    return tau**2 * total / (student.shape[0] * student.shape[1])


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 6), (1, 2, 2, 2, 3)])
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_loops(shape, tau):
    student, teacher = maps(*shape), 2 * maps(*shape).flip(0, 1) + 1
    assert float(cwd_loss(student, teacher, tau)) == pytest.approx(by_loops(student, teacher, tau), rel=1e-12)


def test_a_constant_in_a_channel_changes_nothing():
    student, teacher = maps(2, 3, 4, 4), maps(2, 3, 4, 4).flip(0)
    moved = teacher + torch.arange(3.0).view(1, 3, 1, 1)
    torch.testing.assert_close(cwd_loss(student, moved, 4.0), cwd_loss(student, teacher, 4.0))


def test_a_temperature_for_each_sample():
    student, teacher, tau = maps(2, 3, 4, 4), maps(2, 3, 4, 4).flip(0), torch.tensor([1.0, 5.0])
    apart = [cwd_loss(student[i : i + 1], teacher[i : i + 1], float(tau[i])) for i in (0, 1)]
    torch.testing.assert_close(cwd_loss(student, teacher, tau), sum(apart) / 2)


def test_the_student_is_brought_to_the_teachers_width_and_size():
    student = NetworkOutput(torch.zeros(2, 5), {"last": torch.randn(2, 3, 8, 8)})
    teacher = NetworkOutput(torch.zeros(2, 5), {"last": torch.randn(2, 6, 4, 4)})
    method = CWD()
    method.build(student, teacher)
    found = method(student, teacher, Step(), Softening.at(4.0, student.logits))
    own = F.conv2d(F.avg_pool2d(student.features["last"], 2), method.adapter[0].weight)
    torch.testing.assert_close(found, cwd_loss(own, teacher.features["last"], 4.0))
    same = CWD()
    same.build(teacher, teacher)
    assert not list(same.parameters())


@pytest.mark.parametrize(
    ("student", "teacher", "tau", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3), 4.0, "which has none: name a layer"),
        (torch.zeros(2, 3, 4), torch.zeros(2, 4, 4), 4.0, "expected the same shape"),
        (torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.ones(2, 4, 1), "temperature of shape|temperature has shape"),
    ],
)
def test_wrong_input(student, teacher, tau, message):
    with pytest.raises(UserError, match=message):
        cwd_loss(student, teacher, tau)


def test_a_temperature_for_each_position_is_refused():
    ones = torch.ones(2, 4, 1)
    with pytest.raises(UserError, match=r"found a temperature of shape \(2, 4, 1\)"):
        cwd_loss(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), Softening(ones, ones, ones.squeeze(-1)))
