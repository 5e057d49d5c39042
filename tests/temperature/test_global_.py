import pytest
import torch
import torch.nn.functional as F

from ctkd_lightning import GlobalTemperature
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import kd_loss
from tests.temperature import golden

CLOSED = {"global": golden.one_for_both}


def test_global_temperature_equals_reference():
    expected = golden.LEARNED["global_temperature"]
    temperature = GlobalTemperature(initial_value=expected["parameter"]).double()
    temperature.lambda_.fill_(-expected["lambda_used"])
    tau = temperature(*golden.LOGITS)
    assert tau.ndim == 0
    assert tau.item() == pytest.approx(expected["tau"], rel=1e-7)  # the reference computes this in float32
    loss = kd_loss(*golden.LOGITS, tau)
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-6)
    assert temperature.value.grad.item() == pytest.approx(expected["grad_parameter"], rel=1e-6)


def test_adversarial_trajectory_equals_reference():
    student, teacher = golden.LOGITS[0].clone().requires_grad_(), golden.LOGITS[1]
    target = torch.tensor(golden.LEARNED["target"])
    temperature = GlobalTemperature().double()
    optimizer = torch.optim.SGD([student, *temperature.parameters()], lr=0.05, momentum=0.9, weight_decay=5e-4)
    for step, (expected_tau, expected_loss) in enumerate(golden.LEARNED["adversarial_trajectory"]["tau_loss_per_step"]):
        temperature.lambda_.fill_(golden.LEARNED["lambda_by_epoch_from_1"][step // 3 + 1])
        tau = temperature(student, teacher)
        loss = 0.1 * F.cross_entropy(student, target) + 0.9 * kd_loss(student, teacher, tau)
        assert tau.item() == pytest.approx(expected_tau, rel=1e-6)
        assert loss.item() == pytest.approx(expected_loss, rel=1e-6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_small_updates_move_a_temperature_that_was_cast_to_half():
    temperature = GlobalTemperature().to(torch.bfloat16)
    with torch.no_grad():
        for _ in range(1000):
            temperature.value += 1e-4
    assert temperature.value.item() == pytest.approx(1.1, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau_range": -1.0}, "tau_range must be a finite number above 0, found -1.0"),
        ({"tau_range": float("inf")}, "tau_range must be a finite number above 0, found inf"),
        ({"tau_init": float("nan")}, "tau_init must be a finite number above 0, found nan"),
        ({"initial_value": None}, "initial_value must be a finite number, found None"),
    ],
)
def test_bad_input(settings, message):
    with pytest.raises(UserError, match=message):
        GlobalTemperature(**settings)
