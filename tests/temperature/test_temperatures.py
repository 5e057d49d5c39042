import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ctkd_lightning import FixedTemperature, GlobalTemperature, InstanceTemperature
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import kd_loss

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


@pytest.fixture
def logits():
    return tuple(torch.tensor(GOLDEN[f"{role}_logits"], dtype=torch.float64) for role in ("student", "teacher"))


def test_global_temperature_equals_reference(logits):
    expected = GOLDEN["global_temperature"]
    temperature = GlobalTemperature(initial_value=expected["parameter"]).double()
    temperature.lambda_.fill_(-expected["lambda_used"])
    tau = temperature(*logits)
    assert tau.ndim == 0
    assert tau.item() == pytest.approx(expected["tau"], rel=1e-7)  # the reference computes this in float32
    loss = kd_loss(*logits, tau)
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-6)
    assert temperature.value.grad.item() == pytest.approx(expected["grad_parameter"], rel=1e-6)


def test_adversarial_trajectory_equals_reference(logits):
    student, teacher = logits[0].clone().requires_grad_(), logits[1]
    target = torch.tensor(GOLDEN["target"])
    temperature = GlobalTemperature().double()
    optimizer = torch.optim.SGD([student, *temperature.parameters()], lr=0.05, momentum=0.9, weight_decay=5e-4)
    for step, (expected_tau, expected_loss) in enumerate(GOLDEN["adversarial_trajectory"]["tau_loss_per_step"]):
        temperature.lambda_.fill_(GOLDEN["lambda_by_epoch_from_1"][step // 3 + 1])
        tau = temperature(student, teacher)
        loss = 0.1 * F.cross_entropy(student, target) + 0.9 * kd_loss(student, teacher, tau)
        assert tau.item() == pytest.approx(expected_tau, rel=1e-6)
        assert loss.item() == pytest.approx(expected_loss, rel=1e-6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_learned_temperatures_climb_the_loss_at_strength_lambda(logits):
    for temperature in (GlobalTemperature(), InstanceTemperature(num_classes=10)):
        temperature.double()
        gradients = []
        for lambda_ in (0.0, 0.5, 1.0):
            temperature.lambda_.fill_(lambda_)
            temperature.zero_grad()
            kd_loss(*logits, temperature(*logits)).backward()
            gradients.append(torch.cat([p.grad.flatten() for p in temperature.parameters()]))
        torch.testing.assert_close(gradients[0], torch.zeros_like(gradients[0]))
        torch.testing.assert_close(gradients[1], 0.5 * gradients[2])

        # finite difference of the loss with respect to the raw value's bias: the gradient must point the other way
        bias = temperature.value if isinstance(temperature, GlobalTemperature) else temperature.out.bias
        losses = []
        for shift in (-1e-4, 1e-4):
            with torch.no_grad():
                bias += shift
                losses.append(kd_loss(*logits, temperature(*logits)).item())
                bias -= shift
        slope = (losses[1] - losses[0]) / 2e-4
        assert bias.grad.item() == pytest.approx(-slope, rel=1e-5)


def test_instance_temperature_equals_a_loop_over_samples(logits):
    temperature = InstanceTemperature(num_classes=10, hidden=16).double()
    torch.nn.init.normal_(temperature.out.weight)
    tau = temperature(*logits)
    assert tau.shape == (8, 1)
    for i, (s, t) in enumerate(zip(*logits, strict=True)):
        hidden = torch.cat([s, t]) @ temperature.hidden.weight.T + temperature.hidden.bias
        raw = hidden.clamp(min=0) @ temperature.out.weight.T + temperature.out.bias
        assert tau[i].item() == pytest.approx((1 + 20 / (1 + torch.exp(-raw))).item(), rel=1e-12)


def test_instance_temperature_starts_as_the_global_one_and_leaves_the_student_alone(logits):
    student = logits[0].clone().requires_grad_()
    temperature = InstanceTemperature(num_classes=10).double()
    tau = temperature(student, logits[1])
    torch.testing.assert_close(tau, GlobalTemperature().double()(*logits).expand(8, 1))
    tau.sum().backward()
    assert student.grad is None


def test_fixed_temperature(logits):
    temperature = FixedTemperature(2.5)
    assert temperature(*logits).item() == 2.5
    assert not list(temperature.parameters())


@pytest.mark.parametrize("make", [FixedTemperature, GlobalTemperature, lambda: InstanceTemperature(num_classes=3)])
def test_state_stays_wide_when_cast_to_half(make):
    temperature = make().to(torch.bfloat16)
    for tensor in (*temperature.parameters(), *temperature.buffers()):
        assert tensor.dtype == torch.float32
    half = torch.randn(2, 3, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert temperature(half, half).dtype == torch.float32
    assert all(t.dtype == torch.float64 for t in make().double().state_dict().values())


def test_small_updates_move_a_temperature_that_was_cast_to_half():
    temperature = GlobalTemperature().to(torch.bfloat16)
    with torch.no_grad():
        for _ in range(1000):
            temperature.value += 1e-4
    assert temperature.value.item() == pytest.approx(1.1, abs=1e-3)


def test_lambda_is_in_no_checkpoint_and_the_learned_parameters_are():
    assert list(GlobalTemperature().state_dict()) == ["value"]
    assert list(InstanceTemperature(3).state_dict()) == ["hidden.weight", "hidden.bias", "out.weight", "out.bias"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedTemperature(0.0), "temperature's tau must be a finite number above 0, found 0.0"),
        (lambda: FixedTemperature("4"), "temperature's tau must be a finite number above 0, found '4'"),
        (lambda: GlobalTemperature(tau_range=-1.0), "tau_range must be a finite number above 0, found -1.0"),
        (lambda: GlobalTemperature(tau_range=float("inf")), "tau_range must be a finite number above 0, found inf"),
        (lambda: GlobalTemperature(tau_init=float("nan")), "tau_init must be a finite number above 0, found nan"),
        (lambda: GlobalTemperature(initial_value=None), "initial_value must be a finite number, found None"),
        (lambda: InstanceTemperature(3, initial_value="1"), "initial_value must be a finite number, found '1'"),
        (lambda: InstanceTemperature(num_classes=0), "num_classes must be a whole number from 1, found 0"),
        (lambda: InstanceTemperature(3, hidden="8"), "hidden must be a whole number from 1, found '8'"),
        (lambda: InstanceTemperature(5)(torch.zeros(2, 3), torch.zeros(2, 3)), "was made for 5 classes; found .*2, 3"),
        (lambda: InstanceTemperature(5)(torch.zeros(2, 5), torch.zeros(2, 3)), "student logits .2, 5. and teacher"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(UserError, match=message):
        make()
