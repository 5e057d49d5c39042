"""What every temperature has to fulfil, driven by the list in settings.py."""

import copy

import pytest
import torch
import torch.nn.functional as F

from ctkd_lightning import FixedTemperature, GlobalTemperature
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods import kd_loss
from tests.temperature.settings import LEARNED, RULES, TEMPERATURES, closed_forms, made

CLOSED = closed_forms()


def logits(*shape, seed=0):
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=TEMPERATURES)
def name(request):
    return request.param


def unlike_at_the_start(temperature):
    """The temperature with parameters that are not those of its start, which may be equal for all samples."""
    with torch.no_grad():
        for i, parameter in enumerate(temperature.parameters()):
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)).to(parameter)
    return temperature


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7)])
def test_closed_forms(name, shape):
    s, t = logits(*shape), logits(*shape, seed=1)
    temperature = unlike_at_the_start(made(name).double())
    tau = (temperature.base if name in RULES else temperature)(s, t)
    step = Step(torch.arange(s[..., 0].numel()).reshape(shape[:-1]) % 7)
    tau_s, tau_t, scale, *shifts = CLOSED[name](s, t, tau)
    shift_s, shift_t = shifts or (0, 0)  # which matter to a softmax where each class has its own
    softening = temperature.soften(s, t, step)
    q, p = F.log_softmax((s - shift_s) / tau_s, -1), F.log_softmax((t - shift_t) / tau_t, -1)
    expected = (F.kl_div(q, p, log_target=True, reduction="none").sum(-1) * scale).mean()
    torch.testing.assert_close(kd_loss(s, t, softening), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(softening.scale.expand(shape[:-1]), scale.expand(shape[:-1]).double())
    torch.testing.assert_close(temperature(s, t).expand(shape), softening.student.expand(shape))


def test_state_stays_wide_when_cast_to_half(name):
    temperature = made(name).to(torch.bfloat16)
    for tensor in (*temperature.parameters(), *temperature.buffers()):
        assert tensor.dtype == torch.float32
    half = torch.randn(2, 7, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert temperature(half, half).dtype == torch.float32
    assert all(t.dtype == torch.float64 for t in made(name).double().state_dict().values())


def test_state_is_the_learned_parameters(name):
    temperature = unlike_at_the_start(made(name))
    assert set(temperature.state_dict()) == {
        key for key, _ in temperature.named_parameters()
    }  # λ and constants are not
    assert bool(temperature.state_dict()) == (name in LEARNED)
    twin = made(name)
    twin.load_state_dict(copy.deepcopy(temperature.state_dict()))
    s, t = torch.randn(2, 4, 7)
    torch.testing.assert_close(twin(s, t), temperature(s, t), rtol=0, atol=0)


@pytest.mark.parametrize("name", LEARNED)
def test_a_cooperative_temperature_has_the_gradient_of_the_loss(name):
    s, t = logits(8, 7), logits(8, 7, seed=1)
    gradients = []
    for objective in ("adversarial", "cooperative"):
        torch.manual_seed(0)
        temperature = unlike_at_the_start(made(name).double())
        temperature.objective = objective
        temperature.lambda_.fill_(0.25)
        kd_loss(s, t, temperature.soften(s, t)).backward()
        gradients.append([p.grad for p in temperature.parameters()])
    torch.testing.assert_close(gradients[1], [-g for g in gradients[0]])
    assert all(g.abs().sum() > 0 for g in gradients[0])


def test_an_objective_that_there_is_not():
    with pytest.raises(UserError, match="objective is 'co-operative'; did you mean cooperative"):
        GlobalTemperature(objective="co-operative")


@pytest.mark.parametrize("name", LEARNED)
def test_learned_temperatures_climb_the_loss_at_strength_lambda(name):
    torch.manual_seed(0)
    s, t = logits(8, 7), logits(8, 7, seed=1)
    temperature = unlike_at_the_start(made(name).double())
    gradients = []
    for lambda_ in (0.0, 0.5, 1.0):
        temperature.lambda_.fill_(lambda_)
        temperature.zero_grad()
        kd_loss(s, t, temperature.soften(s, t)).backward()
        gradients.append([p.grad.clone() for p in temperature.parameters()])
    torch.testing.assert_close(gradients[0], [torch.zeros_like(g) for g in gradients[0]])
    torch.testing.assert_close(gradients[1], [0.5 * g for g in gradients[2]])

    # finite difference of the loss along the gradient: it must fall, for the gradient points the other way
    norm = sum(g.square().sum() for g in gradients[2]).sqrt()
    losses = []
    for step in (-1e-5, 2e-5):
        with torch.no_grad():
            for parameter, gradient in zip(temperature.parameters(), gradients[2], strict=True):
                parameter += step * gradient / norm
            losses.append(kd_loss(s, t, temperature.soften(s, t)).item())
    assert (losses[1] - losses[0]) / 2e-5 == pytest.approx(-norm.item(), rel=1e-5)


def test_the_logits_inform_a_learned_temperature_and_are_not_trained_to_please_it():
    for name in LEARNED:
        s, t = (logits(4, 7, seed=seed).requires_grad_() for seed in (0, 1))
        made(name).double()(s, t).sum().backward()
        assert s.grad is t.grad is None, name


@pytest.mark.parametrize("rule", RULES)
def test_the_student_is_trained_through_the_rule_and_a_learned_base_against_it(rule):
    base = GlobalTemperature().double()
    base.lambda_.fill_(0.5)
    s, t = logits(3, 7).requires_grad_(), logits(3, 7, seed=1)

    def loss(s, value):
        fixed = FixedTemperature(1.0)
        fixed.tau = 1 + 20 * torch.sigmoid(value)
        return kd_loss(s, t, RULES[rule](fixed).soften(s, t))

    value = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (s, value))
    expected = torch.autograd.grad(loss(s, value), value)[0]
    kd_loss(s, t, RULES[rule](base).soften(s, t)).backward()
    torch.testing.assert_close(base.value.grad, -0.5 * expected)


def test_masked_classes_give_finite_losses_and_gradients(name):
    temperature = made(name)
    s, t = (logits(4, 7, seed=seed).float().masked_fill(torch.arange(7) > 4, -float("inf")) for seed in (0, 1))
    loss = kd_loss(s.requires_grad_(), t, temperature.soften(s, t, Step(torch.arange(4))))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in (s, *temperature.parameters()))
