"""Temperatures that learn from samples that the student does not train on."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ctkd_lightning import Distillation, GlobalTemperature, InstanceTemperature
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import DKD, KD, FeatureMethod, SRRL, _chunked_kd
from ctkd_lightning.temperature import LearnedTemperature, LSKDTemperature, PerClassTemperature

CLASSES, LAMBDA = 5, 0.5


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(count, seed=0):
    return torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(seed))


X, Y, X_HELD_OUT, Y_HELD_OUT = numbers(8, 6, seed=3), labels(8, 3), numbers(12, 6, seed=4), labels(12, 4)


def network(seed, dropout=0.0):
    torch.manual_seed(seed)
    layers = [nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Dropout(dropout), nn.Linear(9, CLASSES)]
    layers[-1].weight.data *= 6  # logits that differ, so that τ matters
    return nn.Sequential(*layers).double()


def moved(temperature):
    """With λ, and parameters unlike those of its start, which may be equal for all samples."""
    temperature.double()
    for i, parameter in enumerate(temperature.parameters()):
        parameter.data += 0.3 * numbers(*parameter.shape, seed=i)
    for part in temperature.modules():
        if isinstance(part, LearnedTemperature):
            part.lambda_.fill_(LAMBDA)
    return temperature


def of_objective(temperature, objective):
    other = copy.deepcopy(temperature)
    for part in other.modules():
        if isinstance(part, LearnedTemperature):
            part.objective = objective
    return other


MADE = {
    "global": lambda: GlobalTemperature(objective="held_out"),
    "instance": lambda: InstanceTemperature(CLASSES, hidden=3, objective="held_out"),
    "per class": lambda: PerClassTemperature(CLASSES, objective="held_out"),
    "a rule's base": lambda: LSKDTemperature(GlobalTemperature(objective="held_out")),
}


def step(temperature, student=None, held_out=None, **settings):
    """A step of an engine, with its gradients."""
    torch.manual_seed(0)
    distillation = Distillation(
        network(1) if student is None else student, network(2), temperature=temperature, **settings
    )
    distillation.train()
    if distillation.learns_from_held_out:
        x, y = (X_HELD_OUT, Y_HELD_OUT) if held_out is None else held_out
        distillation.hold_out(x, target=y)
    losses = distillation(X, target=Y)
    losses["loss"].backward()
    return distillation, losses


def held_out_loss_after(temperature, weight, rate):
    """The cross-entropy on the held-out samples after one real step of SGD on the training batch."""
    student, teacher = network(1), network(2).eval()
    s, t = student(X), teacher(X).detach()
    softening = temperature.soften(s, t)
    q, p = F.log_softmax(s / softening.student, -1), F.log_softmax(t / softening.teacher, -1)  # shifts cancel
    loss = 0.1 * F.cross_entropy(s, Y)
    loss = loss + weight * (F.kl_div(q, p, log_target=True, reduction="none").sum(-1) * softening.scale).mean()
    loss.backward()
    torch.optim.SGD(student.parameters(), abs(rate), maximize=rate < 0).step()
    return F.cross_entropy(student(X_HELD_OUT), Y_HELD_OUT).item()


def slope(temperature, parameter, index, weight):
    """The derivative of that loss with a raw value, over the rate.

    The step's own second order cancels between the two signs of the rate.
    """
    rate, h, found = 1e-4, 1e-3, []
    flat, start = parameter.data.view(-1), parameter.data.view(-1)[index].item()
    for value in (start + h, start - h):
        flat[index] = value
        found.append(held_out_loss_after(temperature, weight, rate) - held_out_loss_after(temperature, weight, -rate))
    flat[index] = start
    return (found[0] - found[1]) / (4 * h * rate)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize(("method", "weight"), [(KD(0.9), 0.9), ({"a": KD(0.3), "b": KD(0.7)}, 1.0)])
def test_the_gradient_is_that_of_the_held_out_loss_after_the_student_s_step(name, method, weight):
    distillation, _ = step(moved(MADE[name]()), method=method)
    student = network(1)
    F.cross_entropy(student(X_HELD_OUT), Y_HELD_OUT).backward()
    length = torch.cat([p.grad.flatten() for p in student.parameters()]).norm().item()
    plain = of_objective(distillation.temperature, "adversarial")
    largest = 0.0
    for learned, parameter in zip(distillation.temperature.parameters(), plain.parameters(), strict=True):
        for index in range(min(3, parameter.numel())):
            expected = LAMBDA * slope(plain, parameter, index, weight) / length
            largest = max(largest, abs(expected))
            assert learned.grad.view(-1)[index].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert largest > 2e-4
