import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import DKD, dkd_loss, kd_loss
from tests.methods import golden
from tests.methods.setting import Setting, classes
from tests.methods.test_kd import TEMPERATURES

SETTINGS = {"dkd": Setting(DKD, lambda s, t, temperature: dkd_loss(s, t, classes(s), temperature))}


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_golden(tau):
    temperature = torch.tensor(float(tau), dtype=torch.float64, requires_grad=True)
    golden.check(
        f"dkd@{tau}",
        lambda s: dkd_loss(s, golden.TEACHER_LOGITS, golden.TARGET, temperature, 1.0, 8.0),
        golden.STUDENT_LOGITS,
    )
    assert temperature.grad.item() == pytest.approx(golden.CASES[f"dkd@{tau}"]["grad_tau"], rel=1e-6)


def test_is_kd_where_beta_is_the_teachers_mass_outside_the_target():
    student, teacher = torch.randn(2, 6, 10, dtype=torch.float64)
    target, temperature = torch.arange(6), torch.linspace(1, 20, 6, dtype=torch.float64)
    rest = 1 - (teacher / temperature[:, None]).softmax(1)[range(6), target]
    expected = kd_loss(student, teacher, temperature)
    one_by_one = [
        dkd_loss(student[i, None], teacher[i, None], target[i, None], temperature[i], beta=rest[i].item())
        for i in range(6)
    ]
    torch.testing.assert_close(torch.stack(one_by_one).mean(), expected)


def test_more_positions_than_one_per_sample():
    student, teacher = torch.randn(2, 3, 4, 10)
    target = torch.randint(10, (3, 4))
    flat = dkd_loss(student.flatten(0, 1), teacher.flatten(0, 1), target.flatten(), 2.0)
    torch.testing.assert_close(dkd_loss(student, teacher, target, 2.0), flat)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_targets_of_any_type_of_whole_numbers(dtype):
    student, teacher = torch.randn(2, 3, 5)
    target = torch.tensor([0, 4, 2])
    assert dkd_loss(student, teacher, target.to(dtype), 2.0) == dkd_loss(student, teacher, target, 2.0)


def test_warms_up():
    method = DKD(weight=2.0)
    weights = []
    for epoch in (0, 9, 19, 100):
        method.set_epoch(epoch)
        weights.append(float(method.weight))
    assert weights == pytest.approx([0.1, 1.0, 2.0, 2.0])
    assert "weight" not in method.state_dict()


def test_wrong_input():
    logits = torch.zeros(2, 3)
    with pytest.raises(UserError, match="two classes or more"):
        dkd_loss(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), 1.0)
    with pytest.raises(UserError, match=r"target has shape \(2, 3\)"):
        dkd_loss(logits, logits, torch.zeros(2, 3), 1.0)
    for dtype in (torch.bool, torch.float32):
        with pytest.raises(UserError, match=f"target has shape .* and type {dtype}: expected one class index"):
            dkd_loss(logits, logits, torch.zeros(2, dtype=dtype), 1.0)
    with pytest.raises(UserError, match="warmup_epochs must be a whole number from 0, found -1"):
        DKD(warmup_epochs=-1)
    with pytest.raises(UserError, match="weight must be a finite number from 0, found -2"):
        DKD(weight=-2.0)
