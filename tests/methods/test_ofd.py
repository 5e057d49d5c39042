import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods import OFD, NetworkOutput, ofd_loss
from ctkd_lightning.temperature import Softening
from tests.methods.setting import SMALL, Setting

SETTINGS = {"ofd": Setting(OFD, ofd_loss, SMALL, SMALL)}


def plain_loss(student, teacher, margin):
    total = 0.0
    for s, t, m in zip(student.flatten(), teacher.flatten(), margin.expand_as(student).flatten(), strict=True):
        goal = max(t.item(), m.item())
        total += 0.0 if s.item() <= goal <= 0 else (s.item() - goal) ** 2
    return total / len(student)


def test_value_by_value():
    student, teacher = torch.randn(2, 2, 3, 4, 4)
    margin = torch.stack([x[x < 0].mean() for x in teacher.unbind(1)])
    expected = plain_loss(student, teacher, margin.view(-1, 1, 1))
    assert ofd_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    given = torch.full((3,), -0.1)
    expected = plain_loss(student, teacher, given.view(-1, 1, 1))
    assert ofd_loss(student, teacher, given).item() == pytest.approx(expected, rel=1e-5)


def test_behind_a_rectifier_nothing_below_zero_is_asked():
    student = torch.tensor([-5.0, -1.0, 2.0]).view(1, 1, 1, 3)
    assert ofd_loss(student, torch.zeros(1, 1, 1, 3)) == 4


def test_later_stages_weigh_more():
    maps = {f"stage{i}_preact": torch.ones(1, 1, 2, 2) for i in (1, 2, 3)}
    output = NetworkOutput(torch.zeros(1, 2), maps)
    method = OFD()
    method.build(output, output)
    method.adapters = torch.nn.ModuleList(torch.nn.Identity() for _ in maps)
    student = NetworkOutput(output.logits, {role: x + 1 for role, x in maps.items()})
    loss = method(student, output, Step(), Softening.at(4.0, torch.zeros(1, 3)))
    assert loss.item() == 4 * (0.25 + 0.5 + 1)


def test_wrong_input():
    with pytest.raises(UserError, match=r"margin has shape \(2,\), expected one per channel \(3,\)"):
        ofd_loss(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), torch.zeros(2))


def test_adapters_start_as_the_authors_do():
    torch.manual_seed(0)
    output = NetworkOutput(torch.zeros(1, 2), {"stage1_preact": torch.zeros(1, 96, 2, 2)})
    method = OFD()
    method.build(output, output)
    assert method.adapters[0][0].weight.std().item() == pytest.approx((2 / 96) ** 0.5, rel=0.05)  # of what goes out
