"""The temperature's own optimizer, against torch's own on the same scalar in one group."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CyclicLR, LambdaLR

from ctkd_lightning.callbacks.plugin.optimizer import CompanionOptimizer
from ctkd_lightning.errors import UserError


def parameter(*shape, value=1.0):
    return nn.Parameter(torch.full(shape, value))


def companion(optimizers, parameters, *, student=(), module=None, strategy=None, **settings):
    made = CompanionOptimizer(module or nn.Module(), lambda: student, strategy, **settings)
    made.follow(optimizers)
    made.add(parameters)
    return made


def gradients(steps, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((), generator=generator) for _ in range(steps)]


def train(optimizer, weight, tau, steps=6, seed=3, schedule=None):
    """The weight has a gradient of ones, tau a random one."""
    for gradient in gradients(steps, seed):
        optimizer.zero_grad()
        weight.grad = torch.ones_like(weight)
        tau.grad = gradient.clone()
        optimizer.step()
        if schedule is not None:
            schedule.step()


KINDS = {
    "SGD": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.1}),
    "SGD, Nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
    "SGD, fused": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.8, "fused": True}),
    "Adam": (torch.optim.Adam, {"lr": 0.1, "betas": (0.7, 0.9)}),
    "Adam, amsgrad": (torch.optim.Adam, {"lr": 0.1, "amsgrad": True}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.3}),
    "AdamW, fused": (torch.optim.AdamW, {"lr": 0.1, "fused": True}),
    "AdamW, foreach": (torch.optim.AdamW, {"lr": 0.1, "foreach": True}),
    "AdamW, rate in a tensor": (torch.optim.AdamW, {"lr": torch.tensor(0.1), "foreach": False}),
    "AdamW, maximize": (torch.optim.AdamW, {"lr": 0.1, "maximize": True}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.1, "momentum": 0.5, "centered": True}),
    "Adagrad": (torch.optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.2}),
    "Adadelta": (torch.optim.Adadelta, {"lr": 3.0}),
    "Adamax": (torch.optim.Adamax, {"lr": 0.1}),
    "Rprop": (torch.optim.Rprop, {"lr": 0.1}),
    "NAdam": (torch.optim.NAdam, {"lr": 0.1, "decoupled_weight_decay": True, "weight_decay": 0.1}),
    "RAdam": (torch.optim.RAdam, {"lr": 0.1}),
    "Adafactor": (torch.optim.Adafactor, {"lr": 0.1}),
    "ASGD": (torch.optim.ASGD, {"lr": 0.1}),
}


@pytest.mark.parametrize("own", [{}, {"learning_rate": 0.02}], ids=["shared", "own rate"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_torchs_own_in_one_group(kind, own):
    make, settings = KINDS[kind]
    settings = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in settings.items()}
    weight, tau, expected = parameter(2, 3), parameter(), parameter()
    host = make([weight], **settings)
    companion([host], {"tau": tau}, **own)
    layout = [sorted(group) for group in host.param_groups]
    rate = own.get("learning_rate", float(settings["lr"]))
    train(host, weight, tau, schedule=LambdaLR(host, lambda step: 0.9**step))

    reference = make([expected], **settings | {"lr": torch.tensor(rate) if "tensor" in kind else rate})
    train(reference, weight, expected, schedule=LambdaLR(reference, lambda step: 0.9**step))
    torch.testing.assert_close(tau, expected)
    assert tau != 1.0
    assert tau.grad is None
    assert list(host.state) == [weight] or not host.state
    assert [sorted(set(group) - {"initial_lr"}) for group in host.param_groups] == layout


def test_rate_in_a_tensor_that_a_schedule_has_changed_in_place():
    weight, tau = parameter(2), parameter()
    host = torch.optim.SGD([weight], lr=torch.tensor(0.1))
    LambdaLR(host, lambda step: 0.5)
    assert float(host.defaults["lr"]) == pytest.approx(0.05)  # one tensor with the group's
    companion([host], {"tau": tau}, learning_rate=0.2)
    train(host, weight, tau, steps=1)
    assert tau.item() == pytest.approx(1.0 - 0.5 * 0.2 * gradients(1)[0].item())


def test_follows_the_group_of_the_student():
    encoder, student, tau = parameter(2), parameter(2), parameter()
    host = torch.optim.SGD([{"params": [encoder]}, {"params": [student], "lr": 0.3}], lr=0.1)
    companion([host], {"tau": tau}, student=[student])
    train(host, student, tau, steps=1)
    assert tau.item() == pytest.approx(1.0 - 0.3 * gradients(1)[0].item())


@pytest.mark.parametrize("schedule", [None, 0.5], ids=["constant", "scheduled"])
def test_a_rate_of_its_own_stands_in_the_place_of_the_students_group(schedule):
    encoder, student, tau = parameter(2), parameter(2), parameter()
    host = torch.optim.SGD([{"params": [encoder], "lr": 0.7}, {"params": [student], "lr": 0.3}])  # torch's default
    if schedule is not None:
        LambdaLR(host, lambda step: schedule)
    made = companion([host], {"tau": tau}, student=[student], learning_rate=0.02)
    rate = 0.02 * (schedule or 1.0)
    train(host, student, tau, steps=1)
    assert tau.item() == pytest.approx(1.0 - rate * gradients(1)[0].item())
    for group in host.param_groups:  # by hand
        group["lr"] *= 0.1
    host.add_param_group({"params": [parameter(2)], "lr": 5.0})
    made.follow([host])
    before = tau.item()
    train(host, student, tau, steps=1)
    assert tau.item() == pytest.approx(before - 0.1 * rate * gradients(1)[0].item())


def test_a_rate_of_its_own_where_the_module_has_a_group_for_the_temperature():
    """Whose own rate counts no more; nothing says which network is the student."""
    weight, tau = parameter(2), parameter()
    host = torch.optim.SGD([{"params": [tau], "lr": 5.0}, {"params": [weight], "lr": 0.3}], lr=0.1)
    for student in ([], [tau, weight]):
        tau.data.fill_(1.0)
        made = companion([host], {"tau": tau}, student=student, learning_rate=0.02)
        host.param_groups[1]["lr"] = 0.15
        train(host, weight, tau, steps=1)
        assert tau.item() == pytest.approx(1.0 - 0.5 * 0.02 * gradients(1)[0].item())
        host.param_groups[1]["lr"] = 0.3
        made.release()


def test_a_rate_of_its_own_beside_a_cycle_that_the_module_steps():
    weight, tau, module = parameter(2), parameter(), nn.Module()
    host = torch.optim.Adagrad([weight], lr=0.1)
    module.schedule = CyclicLR(host, 0.05, 0.2, cycle_momentum=False)
    companion([host], {"tau": tau}, module=module, learning_rate=0.02)
    train(host, weight, tau, steps=1)
    assert abs(tau.item() - 1.0) == pytest.approx(0.02 * 0.05 / 0.1)  # Adagrad's first step is its rate


def test_of_several_optimizers_the_students():
    discriminator, student, tau = parameter(2), parameter(2), parameter()
    first, second = (torch.optim.SGD([p], lr=0.1) for p in (discriminator, student))
    companion([first, second], {"tau": tau}, student=[student])
    tau.grad = torch.ones(())
    first.step()
    assert tau == 1.0
    second.step()
    assert tau.item() == pytest.approx(0.9)


def test_looks_again_when_the_groups_change():
    head, backbone, tau = parameter(2), parameter(2), parameter()
    first, second = torch.optim.SGD([head], lr=0.1), torch.optim.SGD([parameter(2)], lr=0.2, momentum=0.9)
    made = companion([first, second], {"tau": tau}, student=[backbone])  # is frozen and in no optimizer
    train(first, head, tau, steps=1)
    moved = tau.item()
    assert moved == pytest.approx(1.0 - 0.1 * gradients(1)[0].item())
    second.add_param_group({"params": [backbone]})
    made.follow([first, second])
    train(first, head, tau, steps=1)
    assert tau.item() == moved
    train(second, backbone, tau, steps=1)
    assert tau.item() == pytest.approx(moved - 0.2 * gradients(1)[0].item())


def test_state_outlives_a_change_of_the_groups():
    weight, tau, expected = parameter(2), parameter(), parameter()
    host = torch.optim.Adam([weight], lr=0.1)
    made = companion([host], {"tau": tau})
    train(host, weight, tau, steps=3)
    host.add_param_group({"params": [parameter(3)]})
    made.follow([host])
    train(host, weight, tau, steps=3, seed=4)
    reference = torch.optim.Adam([expected], lr=0.1)
    train(reference, weight, expected, steps=3)
    train(reference, weight, expected, steps=3, seed=4)
    torch.testing.assert_close(tau, expected)


def test_what_an_optimizer_holds_stays_with_it():
    weight, tau = parameter(2), parameter()
    host = torch.optim.SGD([{"params": [weight]}, {"params": [tau], "lr": 0.5}], lr=0.1)
    made = companion([host], {"tau": tau})
    train(host, weight, tau, steps=1)
    assert tau.item() == pytest.approx(1.0 - 0.5 * gradients(1)[0].item())
    assert made.state_dict() == {}


@pytest.mark.parametrize("closure", [False, True], ids=["no closure", "closure"])
@pytest.mark.parametrize("held", [False, True], ids=["left out", "held"])
def test_settings_of_its_own(held, closure):
    weight, tau, expected = parameter(2), parameter(), parameter()
    host = torch.optim.SGD([weight, tau] if held else [weight], lr=0.1, momentum=0.9, weight_decay=0.5)
    before = host.state_dict()["param_groups"]
    companion([host], {"tau": tau}, learning_rate=0.3, weight_decay=0.0)
    reference = torch.optim.SGD([expected], lr=0.3, momentum=0.9, weight_decay=0.0)

    def backward():
        host.zero_grad()
        (weight.sum() + tau.square()).backward()
        return weight.sum()

    for _ in range(3):
        if closure:
            host.step(backward)
        else:
            backward()
            host.step()
        reference.zero_grad()
        expected.square().backward()
        reference.step()
    assert tau.item() == pytest.approx(expected.item())
    assert host.state_dict()["param_groups"] == before
    assert tau not in host.state


@pytest.mark.parametrize("held", [False, True], ids=["left out", "held"])
def test_parameters_that_come_within_a_step(held):
    weight, tau, late = parameter(2), parameter(), parameter()
    host = torch.optim.SGD([weight, tau] if held else [weight], lr=0.1)
    made = companion([host], {"tau": tau}, learning_rate=0.3)

    def closure():
        host.zero_grad()
        made.add({"late": late})
        (weight.sum() + tau + 2 * late).backward()

    host.step(closure)
    assert [tau.item(), late.item(), weight[0].item()] == pytest.approx([0.7, 0.4, 0.9])
    host.step(closure)
    assert [tau.item(), late.item(), weight[0].item()] == pytest.approx([0.4, -0.2, 0.8])


def test_takes_up_the_momentum_that_the_holder_had():
    weight, tau, expected = parameter(2), parameter(), parameter()
    host = torch.optim.SGD([weight, tau], lr=0.1, momentum=0.9)
    reference = torch.optim.SGD([expected], lr=0.1, momentum=0.9)
    train(host, weight, tau, steps=2)
    train(reference, weight, expected, steps=2)
    companion([host], {"tau": tau}, learning_rate=0.1)
    train(host, weight, tau, steps=2)
    train(reference, weight, expected, steps=2)
    assert tau.item() == pytest.approx(expected.item())


def test_frozen_parameters_stay():
    weight, tau = parameter(2), parameter().requires_grad_(False)
    host = torch.optim.SGD([weight], lr=0.1, weight_decay=0.5)
    made = companion([host], {"tau": tau})
    weight.grad = torch.ones(2)
    host.step()
    assert tau == 1.0
    assert companion([], {"tau": tau}).without_optimizer == []
    assert made.state_dict() == {}


def test_in_two_optimizers():
    tau = parameter()
    optimizers = [torch.optim.SGD([tau], lr=0.1) for _ in range(2)]
    with pytest.raises(UserError, match="tau is in 2 optimizers"):
        companion(optimizers, {"tau": tau})


def test_no_optimizer():
    assert companion([], {"tau": parameter()}).without_optimizer == ["tau"]
    assert companion([SimpleNamespace(step=lambda: None)], {"tau": parameter()}).without_optimizer == ["tau"]


def test_settings_that_cannot_be():
    weight, tau = parameter(2), {"tau": parameter()}
    with pytest.raises(UserError, match="LBFGS cannot train a learned temperature"):
        companion([torch.optim.LBFGS([weight])], tau)
    rateless = torch.optim.SGD([weight], lr=0.1)
    rateless.defaults["lr"] = rateless.param_groups[0]["lr"] = None
    with pytest.raises(UserError, match="learning_rate stands in the place of the rate that SGD was made with"):
        companion([rateless], tau, learning_rate=0.1)
    with pytest.raises(UserError, match="weight_decay has no effect with Rprop"):
        companion([torch.optim.Rprop([weight])], tau, weight_decay=0.1)


class Relative(torch.optim.Optimizer):
    """Has no rate: steps of a hundredth of the values."""

    def __init__(self, params):
        super().__init__(params, {"lr": None})

    @torch.no_grad()
    def step(self, closure=None):
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            p.sub_(0.01 * p.abs() * p.grad.sign())


class MatricesAlone(Relative):
    def step(self, closure=None):
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            p.data.sub_(0.1 * p.grad @ p.grad.mT @ p.grad)


def test_an_optimizer_without_a_rate():
    weight, tau = parameter(2, 3), parameter()
    host = Relative([weight])
    companion([host], {"tau": tau})
    weight.grad, tau.grad = torch.ones(2, 3), torch.ones(())
    host.step()
    assert tau.item() == pytest.approx(0.99)
    host = MatricesAlone([weight])
    companion([host], {"tau": tau})
    tau.grad = torch.ones(())
    with pytest.raises(UserError, match="MatricesAlone cannot train a learned temperature"):
        host.step()


@pytest.mark.parametrize(
    ("make", "plain", "settings"),
    [
        pytest.param(
            lambda p: torch.optim.Muon(p, lr=0.02, weight_decay=0.1),
            torch.optim.AdamW,
            {"lr": 0.02, "weight_decay": 0.1},
            marks=pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="a newer torch has it"),
        ),
        (
            lambda p: torch.optim.SparseAdam(p, lr=0.02, betas=(0.7, 0.9)),
            torch.optim.AdamW,
            {"lr": 0.02, "betas": (0.7, 0.9), "weight_decay": 0.0},
        ),
    ],
    ids=["Muon", "SparseAdam"],
)
def test_a_class_that_cannot_train_a_number(make, plain, settings):
    weight, tau, expected = parameter(2, 3), parameter(), parameter()
    host, reference = make([weight]), plain([expected], **settings)
    companion([host], {"tau": tau})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for gradient in gradients(4):
            weight.grad = torch.ones(2, 3)
            weight.grad = weight.grad.to_sparse() if isinstance(host, torch.optim.SparseAdam) else weight.grad
            tau.grad = gradient.clone()
            host.step()
            host.param_groups[0]["lr"] *= 0.5
            expected.grad = gradient
            reference.step()
            reference.param_groups[0]["lr"] *= 0.5
    assert tau.item() == pytest.approx(expected.item())
    assert sum("tau: trained by AdamW at the student's rate" in str(w.message) for w in caught) == 1


class Counting(torch.optim.SGD):
    """Keeps the number of its steps among the settings, and warms up by it, as some schedule-free ones do."""

    def __init__(self, params):
        super().__init__(params, lr=0.1)
        self.defaults["steps"] = 0
        for group in self.param_groups:
            group["steps"] = 0

    def step(self, closure=None):
        for group in self.param_groups:
            group["steps"] += 1
            for p in group["params"]:
                if p.grad is not None:
                    p.data.sub_(group["lr"] * group["steps"] * p.grad)


def test_what_a_step_counts_is_each_optimizers_own():
    weight, tau, expected = parameter(2), parameter(), parameter()
    host, reference = Counting([weight]), Counting([expected])
    made = companion([host], {"tau": tau})
    schedules = [LambdaLR(optimizer, lambda step: 0.9**step) for optimizer in (host, reference)]
    train(host, weight, tau, steps=3, schedule=schedules[0])
    train(reference, weight, expected, steps=3, schedule=schedules[1])
    assert tau.item() == pytest.approx(expected.item())
    assert made.state_dict() == {}  # as torch's, it has a state only with entries for the parameter


class Wrapper(torch.optim.Optimizer):
    """Perturbs what it wraps, as sharpness-aware ones do."""

    def __init__(self, optimizer):
        super().__init__(optimizer.param_groups, {})
        self.base, self.param_groups = optimizer, optimizer.param_groups

    def step(self, closure=None):
        return self.base.step()


class Unhooked(torch.optim.Optimizer):
    """Never calls the constructor of torch's class."""

    def __init__(self, optimizer):
        self.base, self.param_groups, self.state, self.defaults = optimizer, optimizer.param_groups, {}, {}

    def zero_grad(self):
        self.base.zero_grad()

    def step(self, closure=None):
        return self.base.step()


class Overridden(torch.optim.SGD):
    """Calls the step of its base class, which has hooks too."""

    def step(self, closure=None):
        return super().step(closure)


@pytest.mark.parametrize("held", [False, True], ids=["left out", "held"])
@pytest.mark.parametrize("kind", [Wrapper, Unhooked, Overridden])
def test_steps_within_steps(kind, held):
    weight, tau = parameter(2), parameter()
    members = [weight, tau] if held else [weight]
    host = kind(members, lr=0.1) if kind is Overridden else kind(torch.optim.SGD(members, lr=0.1))
    companion([host], {"tau": tau}, student=[weight], learning_rate=0.2)
    train(host, weight, tau, steps=2)
    assert tau.item() == pytest.approx(1.0 - 0.2 * sum(gradients(2)).item())
    assert weight[0].item() == pytest.approx(0.8)


def test_compiled_step():
    torch._dynamo.reset()
    weight, tau = parameter(2), parameter()
    host = torch.optim.SGD([weight], lr=0.1)
    companion([host], {"tau": tau})
    step = torch.compile(host.step, backend="eager")
    for gradient in gradients(2):
        weight.grad, tau.grad = torch.ones(2), gradient.clone()
        step()
    assert tau.item() == pytest.approx(1.0 - 0.1 * sum(gradients(2)).item())


def test_gradients_accumulate_until_the_host_steps():
    weight, tau = parameter(2), parameter()
    host = torch.optim.SGD([weight], lr=0.1)
    made = companion([host], {"tau": tau})
    for _ in range(3):
        (weight.sum() + tau).backward()
        made.forget_stale()  # they are not
    host.step()
    assert tau.item() == pytest.approx(0.7)


def test_gradients_of_a_loss_that_is_thrown_away():
    weight, tau = parameter(2), parameter()
    host = torch.optim.SGD([weight], lr=0.1)
    made = companion([host], {"tau": tau})
    (weight.sum() + tau).backward()
    host.zero_grad()
    made.forget_stale()
    assert tau.grad is None
    tau.grad = torch.ones(())
    made.zero_grad(torch.optim.SGD([parameter(2)], lr=0.1))
    assert tau.grad is not None
    made.zero_grad(host)
    assert tau.grad is None


@pytest.mark.parametrize("held", [False, True], ids=["left out", "held"])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("where", ["strategy", "module"])
def test_loss_scaling(where, fused, make, held):
    """Scaled gradients give the step of unscaled ones; a step that the scaler skips is skipped here too."""
    weight, tau, expected = parameter(2), parameter(), parameter()
    host = make([weight, tau] if held else [weight], lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    module, strategy = nn.Module(), SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
    if where == "module":
        module.scaler, strategy = scaler, None
    companion([host], {"tau": tau}, module=module, strategy=strategy, learning_rate=0.3)
    reference = make([expected], lr=0.3)
    for bad in (False, True, False):
        host.zero_grad()
        if not held:
            tau.grad = None
        factor = float("inf") if bad else 1.0
        scaler.scale((factor * weight).sum() + tau.square()).backward()
        scaler.step(host)
        scaler.update()
        if not bad:
            reference.zero_grad()
            expected.square().backward()
            reference.step()
        assert tau.item() == pytest.approx(expected.item())
    assert scaler.get_scale() == 32.0


def test_loss_scaling_with_a_gradient_that_is_not_finite():
    weight, tau = parameter(2), parameter()
    host = torch.optim.SGD([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    strategy = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
    companion([host], {"tau": tau}, strategy=strategy)
    scaler.scale(weight.sum() + float("inf") * tau).backward()
    scaler.step(host)
    assert tau == 1.0
    assert weight[0].item() == pytest.approx(0.9)


def test_state_by_name_comes_back():
    def make():
        weight, tau = parameter(2), parameter()
        host = torch.optim.AdamW([weight], lr=0.1)
        return weight, tau, host

    weight, tau, host = make()
    first = companion([host], {"tau": tau})
    train(host, weight, tau, steps=3)
    state = first.state_dict()
    assert list(state) == ["tau"]

    weight, again, host = make()
    again.data.copy_(tau)
    second = CompanionOptimizer(nn.Module(), tuple)
    second.load_state_dict(state)  # before there is anything
    assert second.state_dict() == state
    second.follow([host])
    train(host, weight, parameter(), steps=1)
    assert second.state_dict() == state
    second.add({"tau": again})  # late
    train(host, weight, again, steps=3, seed=4)
    expected = parameter()
    reference = torch.optim.AdamW([expected], lr=0.1)
    train(reference, weight, expected, steps=3)
    train(reference, weight, expected, steps=3, seed=4)
    torch.testing.assert_close(again, expected, rtol=0, atol=0)


def test_state_of_another_class_is_told():
    weight, tau, expected = parameter(2), parameter(), parameter()
    host = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    first = companion([host], {"tau": tau})
    train(host, weight, tau)
    again, host = parameter(), torch.optim.AdamW([weight], lr=0.1)
    second = companion([host], {"tau": again})
    second.load_state_dict(first.state_dict())
    with pytest.warns(UserWarning, match="tau: the state is one of SGD and the optimizer is AdamW"):
        train(host, weight, again)
    train(torch.optim.AdamW([expected], lr=0.1), weight, expected)
    assert again.item() == pytest.approx(expected.item())


def test_an_empty_state_starts_afresh():
    weight, tau, expected = parameter(2), parameter(), parameter()
    host = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    made = companion([host], {"tau": tau})
    train(host, weight, tau)
    tau.data.fill_(1.0)
    made.load_state_dict({})
    train(host, weight, tau)
    train(torch.optim.SGD([expected], lr=0.1, momentum=0.9), weight, expected)
    assert tau.item() == pytest.approx(expected.item())


def test_lets_go():
    weight, tau = parameter(2), parameter()
    host = torch.optim.SGD([weight, tau], lr=0.1)
    made = companion([host], {"tau": tau}, learning_rate=0.7)
    made.release()
    train(host, weight, tau, steps=1)
    assert tau.item() == pytest.approx(1.0 - 0.1 * gradients(1)[0].item())
