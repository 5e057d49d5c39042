"""Temperatures that learn from samples that the student does not train on."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ctkd_lightning import Distillation, GlobalTemperature, InstanceTemperature
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import DKD, KD, FeatureMethod, _chunked_kd
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


def step(temperature, student=None, teacher=None, **settings):
    """A step of an engine, with its gradients."""
    student = network(1) if student is None else student
    teacher = network(2) if teacher is None else teacher
    distillation = Distillation(student, teacher, temperature=temperature, **settings)
    if distillation.teacher_fusion is not None:
        distillation.teacher_fusion.double()
    torch.manual_seed(0)
    distillation.train()
    if distillation.learns_from_held_out:
        distillation.hold_out(X_HELD_OUT, target=Y_HELD_OUT)
    losses = distillation(X, target=Y)
    losses["loss"].backward()
    return distillation, losses


def held_out_loss_after(temperature, weight, rate, dropout):
    """The cross-entropy on the held-out samples after one real step of SGD on the training batch."""
    student, teacher = network(1, dropout), network(2).eval()
    torch.manual_seed(0)
    s, t = student(X), teacher(X).detach()
    softening = temperature.soften(s, t)
    by_side = ((s, softening.student_shift, softening.student), (t, softening.teacher_shift, softening.teacher))
    q, p = (F.log_softmax((x if shift is None else x - shift) / tau, -1) for x, shift, tau in by_side)
    loss = 0.1 * F.cross_entropy(s, Y)
    loss = loss + weight * (F.kl_div(q, p, log_target=True, reduction="none").sum(-1) * softening.scale).mean()
    loss.backward()
    torch.optim.SGD(student.parameters(), abs(rate), maximize=rate < 0).step()
    torch.manual_seed(0)
    return F.cross_entropy(student(X_HELD_OUT), Y_HELD_OUT).item()


def slope(temperature, parameter, index, weight, dropout=0.0):
    """The derivative of that loss with a raw value, over the rate.

    The step's own second order cancels between the two signs of the rate.
    """
    rate, h, found = 1e-4, 1e-3, []
    flat, start = parameter.data.view(-1), parameter.data.view(-1)[index].item()
    for value in (start + h, start - h):
        flat[index] = value
        ends = [held_out_loss_after(temperature, weight, each, dropout) for each in (rate, -rate)]
        found.append(ends[0] - ends[1])
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


def gradients(module):
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


SETTINGS = {
    "dropout": {"student": lambda: network(1, dropout=0.5)},
    "several terms": {
        "method": lambda: {"a": KD(), "b": KD(), "c": DKD(), "d": FitNetOfLogits()},
        "temperature": lambda objective: {
            "a": moved(GlobalTemperature(objective=objective)),
            "b": moved(PerClassTemperature(CLASSES)),
            "c": moved(PerClassTemperature(CLASSES, objective=objective)),
        },
    },
    "several teachers": {"teacher": lambda: {"x": network(2), "y": network(5)}},
}


class FitNetOfLogits(FeatureMethod):
    def loss(self, student, teacher):
        return (student.logits - teacher.logits).square().mean()


@pytest.mark.parametrize("name", SETTINGS)
def test_nothing_else_is_trained_otherwise(name):
    found = []
    for objective in ("held_out", "adversarial"):
        makers = {"temperature": lambda objective: moved(GlobalTemperature(objective=objective)), **SETTINGS[name]}
        temperature = makers.pop("temperature")(objective)
        distillation, losses = step(temperature, **{key: make() for key, make in makers.items()})
        draws = torch.rand(3)
        parts = [part for part in distillation.modules() if isinstance(part, LearnedTemperature)]
        own = {id(p) for part in parts if part.objective == objective == "held_out" for p in part.parameters()}
        rest = {n: p.grad for n, p in distillation.named_parameters() if id(p) not in own}
        found.append((rest, losses, dict(distillation.student.named_buffers()), draws))
    (rest, *ours), (everything, *others) = found
    assert 0 < len(rest) < len(everything)
    torch.testing.assert_close(rest, {name: everything[name] for name in rest}, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours, others, rtol=0, atol=0)


def test_terms_have_gradients_of_their_own():
    temperature = SETTINGS["several terms"]["temperature"]
    together, _ = step(temperature("held_out"), method=SETTINGS["several terms"]["method"]())
    for name in ("a", "c"):
        alone, _ = step(temperature("held_out")[name], method={name: SETTINGS["several terms"]["method"]()[name]})
        expected = gradients(alone.temperature)
        assert any(g.abs().max() > 1e-5 for g in expected.values())
        torch.testing.assert_close(gradients(together.temperature[name]), expected)


def test_dropout_draws_as_in_the_student_s_own_pass():
    """With the same parts dropped in both passes the derivative is exact, as with others it would not be."""
    distillation, _ = step(moved(MADE["global"]()), network(1, dropout=0.5), method=KD(0.9))
    plain = of_objective(distillation.temperature, "adversarial")
    student = network(1, dropout=0.5)
    torch.manual_seed(0)
    F.cross_entropy(student(X_HELD_OUT), Y_HELD_OUT).backward()
    length = torch.cat([p.grad.flatten() for p in student.parameters()]).norm().item()
    expected = LAMBDA * slope(plain, plain.value, 0, 0.9, dropout=0.5) / length
    assert distillation.temperature.value.grad.item() == pytest.approx(expected, rel=1e-4)


def test_lambda_is_the_strength():
    temperature = moved(MADE["global"]())
    full, _ = step(copy.deepcopy(temperature))
    temperature.lambda_.fill_(0)
    none, _ = step(temperature)
    assert full.temperature.value.grad.abs() > 1e-4
    assert none.temperature.value.grad == 0


@pytest.mark.parametrize("kind", ["binary", "multilabel", "segmentation"])
def test_other_tasks(kind):
    """By finite differences of the engine's own losses: what they are is tested elsewhere."""
    labels_of = {"binary": (8,), "multilabel": (8, 3), "segmentation": (8, 2, 2)}[kind]
    outputs = {"binary": 1, "multilabel": 3, "segmentation": CLASSES * 4}[kind]
    shape = (-1, CLASSES, 2, 2) if kind == "segmentation" else (-1,) if kind == "binary" else (-1, 3)
    classes = CLASSES if kind == "segmentation" else 2
    settings = {"class_dim": 1} if kind == "segmentation" else {"task": kind}
    targets = [torch.randint(classes, labels_of, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    if kind == "segmentation":
        targets[0][:2], targets[1][3:] = -100, -100
    targets = [y if kind == "segmentation" else y.double() for y in targets]
    inputs = [numbers(8, 6, seed=seed) for seed in (3, 4)]

    def networks():
        torch.manual_seed(1)
        last = nn.Unflatten(1, shape[1:]) if shape[1:] else nn.Flatten(0)
        layers = [[nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, outputs), last] for _ in range(2)]
        return [nn.Sequential(*each).double() for each in layers]

    def losses(value, objective, rate=None):
        student, teacher = networks()
        temperature = GlobalTemperature(initial_value=value, objective=objective).double()
        temperature.lambda_.fill_(1.0)
        distillation = Distillation(student, teacher, KD(5.0), temperature, **settings).train()
        if rate is None:
            distillation.hold_out(inputs[1], target=targets[1])
        distillation(inputs[0], target=targets[0])["loss"].backward()
        if rate is None:
            return temperature.value.grad.item(), None
        torch.optim.SGD(student.parameters(), abs(rate), maximize=rate < 0).step()
        student.zero_grad()
        held_out = distillation(inputs[1], target=targets[1])["ce"]
        held_out.backward()
        return held_out.item(), torch.cat([p.grad.flatten() for p in student.parameters()]).norm().item()

    rate, h = 1e-3, 1e-3
    ends = [[losses(-2 + p, "adversarial", r)[0] for r in (rate, -rate)] for p in (h, -h)]
    length = losses(-2, "adversarial", 1e-12)[1]
    expected = (ends[0][0] - ends[0][1] - ends[1][0] + ends[1][1]) / (4 * h * rate) / length
    assert abs(expected) > 1e-5
    assert losses(-2, "held_out")[0] == pytest.approx(expected, rel=1e-3)


def test_ignored_samples_and_masks_leave_out():
    def found(keep_x, keep_held_out, *, cut):
        torch.manual_seed(1)
        student, teacher = (nn.Linear(6, CLASSES).double() for _ in range(2))
        temperature = moved(GlobalTemperature(initial_value=-2, objective="held_out"))
        distillation = Distillation(student, teacher, temperature=temperature).train()
        rows = slice(keep_held_out) if cut else slice(None)
        mask = None if cut else torch.arange(12) < keep_held_out
        distillation.hold_out(X_HELD_OUT[rows], target=Y_HELD_OUT[rows], mask=mask)
        rows = slice(keep_x) if cut else slice(None)
        target = Y if cut else Y.masked_fill(torch.arange(8) >= keep_x, -100)
        distillation(X[rows], target=target[rows])["loss"].backward()
        return temperature.value.grad

    whole, part = found(8, 12, cut=True), found(5, 7, cut=True)
    torch.testing.assert_close(found(5, 7, cut=False), part)
    assert (whole / part - 1).abs() > 0.01


@pytest.mark.parametrize("autocast", [False, True])
def test_in_float32_and_half_precision(autocast):
    exact, _ = step(moved(MADE["global"]()))
    temperature = moved(MADE["global"]()).float()
    distillation = Distillation(network(1).float(), network(2).float(), temperature=temperature).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        distillation.hold_out(X_HELD_OUT.float(), target=Y_HELD_OUT)
        distillation(X.float(), target=Y)["loss"].backward()
    expected = exact.temperature.value.grad.item()
    assert temperature.value.grad.item() == pytest.approx(expected, rel=0.05 if autocast else 1e-3)


def test_large_logits_are_softened_at_once_where_it_takes_a_second_derivative(monkeypatch):
    expected, _ = step(moved(MADE["global"]()))
    monkeypatch.setattr(_chunked_kd, "CHUNK", {"cpu": 5, "cuda": 5})
    found, _ = step(moved(MADE["global"]()))
    assert _chunked_kd.worth_chunking(X, X)
    torch.testing.assert_close(gradients(found), gradients(expected))


def test_a_compiled_student():
    expected, _ = step(moved(MADE["global"]()))
    distillation = Distillation(network(1), network(2), temperature=moved(MADE["global"]()))
    distillation.run_student.network = torch.compile(distillation.student, backend="eager")
    distillation.train().hold_out(X_HELD_OUT, target=Y_HELD_OUT)
    distillation(X, target=Y)["loss"].backward()
    torch.testing.assert_close(gradients(distillation), gradients(expected))


def test_a_student_that_writes_into_its_input():
    class Writes(nn.Sequential):
        def forward(self, x):
            return super().forward(x.mul_(0.5))

    class Copies(nn.Sequential):
        def forward(self, x):
            return super().forward(x * 0.5)

    found = []
    for kind in (Writes, Copies):
        distillation = Distillation(kind(*network(1)), network(2), temperature=moved(MADE["global"]())).train()
        distillation.hold_out(X_HELD_OUT.clone(), target=Y_HELD_OUT)
        distillation(X.clone(), target=Y)["loss"].backward()
        found.append(gradients(distillation))
    torch.testing.assert_close(*found)


def test_what_listens_to_the_temperature_hears_a_step_once():
    temperature, heard = moved(InstanceTemperature(CLASSES, hidden=3, objective="held_out")), []
    temperature.register_forward_hook(lambda module, args, tau: heard.append(module.training))
    step(temperature)
    assert heard == [True, False]
    assert temperature.training


def test_each_step_needs_held_out_samples():
    distillation, _ = step(moved(MADE["global"]()))
    with pytest.raises(UserError, match=r"call hold_out\(x, target=y\) before each training step"):
        distillation(X, target=Y)
    distillation.eval()(X, target=Y)  # no evaluation does
    with torch.no_grad():
        distillation.train()(X, target=Y)
    with pytest.raises(UserError, match=r"pass losses\(\) what run\(\) of the same engine gave"):
        distillation.losses(network(1)(X), network(2)(X))


def test_who_cannot_learn_from_them():
    with pytest.raises(UserError, match="no method is softened by one"):
        Distillation(network(1), network(2)).hold_out(X, target=Y)
    with pytest.raises(UserError, match="there is none here: pass student= to Distillation"):
        Distillation(teacher=network(2), temperature=GlobalTemperature(objective="held_out"))
    frozen = network(1).requires_grad_(False)
    with pytest.raises(UserError, match="depends on no trained parameter of the student"):
        step(GlobalTemperature(objective="held_out"), frozen)

    class Both(KD):
        needs = ("pooled",)

    with pytest.raises(UserError, match="method both softens and reads features too"):
        Distillation(
            nn.Sequential(nn.Flatten(), nn.Linear(6, CLASSES)),
            nn.Sequential(nn.Flatten(), nn.Linear(6, CLASSES)),
            {"both": Both()},
            GlobalTemperature(objective="held_out"),
            student_layers={"pooled": "0"},
            teacher_layers={"pooled": "0"},
        )
