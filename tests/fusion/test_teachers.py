"""Several teachers in the engine, against softmaxes and losses written here."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ctkd_lightning import (
    ConstantCurriculum,
    Distillation,
    FixedTemperature,
    LinearCurriculum,
    Step,
    StudentCall,
    TemperatureFusion,
)
from ctkd_lightning.errors import UserError
from ctkd_lightning.fusion import fit_temperatures
from ctkd_lightning.methods import DKD, KD, FitNet, dkd_loss

TAU = 3.0
NAMES = ("a", "b", "c")


def network(seed, classes=3, width=4):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, classes)).double()


def teachers(classes=3):
    return {name: network(seed, classes) for seed, name in enumerate(NAMES, start=3)}


def data(batch=6, width=4):
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def engine(classes=3, **settings):
    settings = {"temperature": FixedTemperature(TAU)} | settings
    torch.manual_seed(0)  # of what τ is made of
    distillation = Distillation(network(1, classes), teachers(classes), **settings).double()
    if distillation.teacher_fusion is not None:  # otherwise all start equal
        with torch.no_grad():
            for i, p in enumerate(distillation.teacher_fusion.parameters()):
                p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype))
    return distillation


def kl(student, teacher, tau=TAU):
    log_q, log_p = (F.log_softmax(z / tau, dim=-1) for z in (student, teacher))
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1).mean() * tau**2


def pooled(scores, tau):
    """The product of the softened distributions, normalised."""
    product = math.prod(z.softmax(-1) ** (1 / t) for z, t in zip(scores, tau, strict=True))
    return (product / product.sum(-1, keepdim=True)).log()


def taus_of(distillation, x):
    """What the temperatures say of the teachers' scores."""
    with torch.no_grad():
        scores = {name: net(x) for name, net in teachers().items()}
    return list(distillation.teacher_fusion(scores)[1].values())


def test_fixed_is_the_geometric_mean():
    x, distillation = data(), engine(teacher_fusion="fixed")
    losses = distillation(x, target=LABELS)
    probabilities = torch.stack([net(x).softmax(-1) for net in teachers().values()])
    mean = probabilities.prod(0) ** (1 / 3)
    expected = kl(network(1)(x), (mean / mean.sum(-1, keepdim=True)).log())
    torch.testing.assert_close(losses["kd"], expected)
    assert set(losses) == {"loss", "ce", "kd"}
    losses["loss"].backward()
    assert not list(distillation.teacher_fusion.parameters())
    engine(teacher_fusion="fixed")(x)  # without targets


@pytest.mark.parametrize("kind", ["global", "instance"])
@pytest.mark.parametrize("method", [KD, lambda: DKD(warmup_epochs=0)], ids=["kd", "dkd"])
def test_a_loss_for_each(kind, method):
    """The student sees the fused teachers as they are; the fusion sees the labels alone."""
    x, distillation = data(), engine(teacher_fusion=kind, method={"term": method()})
    losses = distillation(x, target=LABELS)
    losses["loss"].backward()

    taus = taus_of(distillation, x)
    inverse = sum(1 / tau for tau in taus)
    torch.testing.assert_close(inverse, torch.ones_like(inverse))
    scores = [net(x).detach() for net in teachers().values()]
    fused = pooled(scores, taus)
    s, own = network(1), distillation.teacher_fusion.parameters()
    t = fused.detach()
    term = dkd_loss(s(x), t, LABELS, TAU) if isinstance(distillation.terms["term"], DKD) else kl(s(x), t)
    weight = distillation.terms["term"].weight
    ce, of_fusion = F.cross_entropy(s(x), LABELS), F.nll_loss(fused, LABELS)
    torch.testing.assert_close(losses["term"], term)
    torch.testing.assert_close(losses["teacher_fusion"], of_fusion)
    torch.testing.assert_close(losses["loss"], 0.1 * ce + weight * term + of_fusion)
    (0.1 * ce + weight * term).backward()
    for found, expected in zip(distillation.student.parameters(), s.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)
    own = list(own)
    for p, gradient in zip(own, torch.autograd.grad(of_fusion, own), strict=True):
        torch.testing.assert_close(p.grad, gradient)
        assert p.grad.abs().sum() > 0


def test_a_loop_by_hand():
    x, curriculum = data(), LinearCurriculum(epochs=4, start=0.5)
    distillation = Distillation(
        network(1), teachers(), temperature=FixedTemperature(TAU), teacher_fusion="global", curriculum=curriculum
    ).double()
    optimizer = torch.optim.SGD(distillation.parameters(), lr=0.5, momentum=0.9)
    for epoch in range(3):
        distillation.progress(epoch, epoch / 3)
        for _ in range(4):
            optimizer.zero_grad()
            distillation(x, target=LABELS)["loss"].backward()
            optimizer.step()

    net, scores = network(1), [guide(x).detach() for guide in teachers().values()]
    raw = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    by_hand = torch.optim.SGD([*net.parameters(), raw], lr=0.5, momentum=0.9)
    for epoch in range(3):
        for _ in range(4):
            by_hand.zero_grad()
            tau = 0.1 * 1000 ** torch.sigmoid(5 * raw - math.log(2))  # 1 is a third of the way from 0.1 to 100
            fused = pooled(scores, tau * (1 / tau).sum())
            loss = 0.1 * F.cross_entropy(net(x), LABELS) + 0.9 * kl(net(x), fused.detach())
            (loss + F.nll_loss(fused, LABELS)).backward()
            raw.grad.mul_(curriculum(epoch))
            by_hand.step()
    torch.testing.assert_close(distillation.teacher_fusion.temperature.value, raw, rtol=1e-6, atol=1e-6)
    assert (raw.detach() - raw.detach().mean()).abs().max() > 0.1  # it moved
    for a, b in zip(distillation.student.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_where_a_teacher_is_wrong_it_is_turned_down():
    """Two are each right on a half: τ of each sample finds that out by their agreement with an unsure third."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 10, generator=generator)
    right = x[:, :3].argmax(1)
    wrong = (right + 1 + (x[:, 3] > 0).long()) % 3

    class Half(nn.Module):
        def __init__(self, good, sure=4.0):
            super().__init__()
            self.good, self.sure = good, sure

        def forward(self, x):
            shown = torch.where(self.good(x), x[:, :3].argmax(1), (x[:, :3].argmax(1) + 1 + (x[:, 3] > 0).long()) % 3)
            return self.sure * F.one_hot(shown, 3).float()

    halves = {
        "left": Half(lambda x: x[:, 4] < 0),
        "right": Half(lambda x: x[:, 4] >= 0),
        "unsure": Half(lambda x: x[:, 4] == x[:, 4], sure=0.5),
    }
    assert (halves["left"](x).argmax(1) == torch.where(x[:, 4] < 0, right, wrong)).all()
    torch.manual_seed(0)
    distillation = Distillation(nn.Linear(10, 3), halves)
    optimizer = torch.optim.Adam(distillation.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        distillation(x, target=right)["loss"].backward()
        optimizer.step()
    tau = distillation.teacher_fusion({name: net(x) for name, net in halves.items()})[1]
    assert (tau["left"][x[:, 4] >= 0]).min() > 10 * (tau["left"][x[:, 4] < 0]).max()
    assert (tau["right"][x[:, 4] < 0]).min() > 10 * (tau["right"][x[:, 4] >= 0]).max()


@pytest.mark.parametrize("how", ["ignored", "mask"])
def test_what_is_masked_takes_no_part(how):
    x, keep = data(), torch.tensor([1, 1, 0, 1, 0, 1], dtype=torch.bool)
    target = LABELS.masked_fill(~keep, -100) if how == "ignored" else LABELS
    distillation, alone = engine(teacher_fusion="instance"), engine(teacher_fusion="instance")
    losses = distillation(x, target=target, mask=keep if how == "mask" else None)
    expected = alone(x[keep], target=LABELS[keep])
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    nothing = engine()(x, target=torch.full_like(LABELS, -100))
    assert nothing["teacher_fusion"] == 0
    nothing["loss"].backward()


@pytest.mark.parametrize(("task", "classes", "shape"), [("binary", 1, (6, 1)), ("multilabel", 5, (6, 5))])
@pytest.mark.parametrize("probabilities", [False, True])
def test_sigmoid_scores(task, classes, shape, probabilities):
    x = data()
    there = (torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.5).double()
    given = {
        name: nn.Sequential(net, nn.Sigmoid()) if probabilities else net for name, net in teachers(classes).items()
    }
    scores = {"scores": {"teacher": "probabilities"}} if probabilities else {}
    distillation = Distillation(
        network(1, classes), given, temperature=FixedTemperature(TAU), task=task, teacher_fusion="global", **scores
    ).double()
    losses = distillation(x, target=there)
    logits = torch.stack([net(x) for net in teachers(classes).values()]).mean(0)  # of the geometric mean
    s = network(1, classes)(x)
    both = [torch.stack([F.logsigmoid(z / TAU), F.logsigmoid(-z / TAU)], -1) for z in (s, logits)]
    torch.testing.assert_close(losses["kd"], TAU**2 * F.kl_div(*both, log_target=True, reduction="none").sum(-1).mean())
    torch.testing.assert_close(losses["teacher_fusion"], F.binary_cross_entropy_with_logits(logits, there))


def test_probabilities_and_soft_targets():
    given = {name: nn.Sequential(net, nn.Softmax(-1)) for name, net in teachers().items()}
    distillation = Distillation(
        network(1), given, scores={"teacher": "probabilities"}, teacher_fusion="global"
    ).double()
    target = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)).double().softmax(-1)
    losses = distillation(data(), target=target)
    fused = torch.stack([net(data()) for net in teachers().values()]).mean(0).log_softmax(-1)
    torch.testing.assert_close(losses["teacher_fusion"], -(target * fused).sum(-1).mean())


@pytest.mark.parametrize(("shape", "dim"), [((2, 3, 4, 5), 1), ((2, 7, 3), -1)], ids=["maps", "sequences"])
def test_maps_and_sequences(shape, dim):
    scores = [torch.randn(shape, generator=torch.Generator().manual_seed(i)).double() for i in range(4)]
    s, z = scores[0].requires_grad_(), torch.stack(scores[1:], dim=1)
    target = torch.randint(3, s.movedim(dim, -1).shape[:-1], generator=torch.Generator().manual_seed(9))
    target[0, 0] = -100
    kept = target != -100
    distillation = engine(class_dim=dim)
    losses = distillation.losses(s, z, Step(target))
    taus = distillation.teacher_fusion(dict(zip(NAMES, scores[1:], strict=True)))[1].values()
    fused = pooled([x.movedim(dim, -1) for x in scores[1:]], [tau.movedim(dim, -1) for tau in taus])
    torch.testing.assert_close(losses["teacher_fusion"], F.nll_loss(fused[kept], target[kept]))
    torch.testing.assert_close(losses["kd"], kl(s.movedim(dim, -1)[kept], fused[kept]))
    with pytest.raises(UserError, match=r"where the scores .* cannot be told: pass class_dim="):
        engine().losses(s, z, Step(target))


def test_classes_that_all_mask_stay_out():
    impossible = torch.tensor([0.0, -math.inf, 0.0], dtype=torch.float64)

    class Masked(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x) + impossible

    given = {name: Masked(net) for name, net in teachers().items()}
    target = torch.tensor([0, 2, 0, 2, 0, 2])
    for kind in ("fixed", "instance"):
        distillation = Distillation(
            Masked(network(1)), given, temperature=FixedTemperature(TAU), teacher_fusion=kind
        ).double()
        losses = distillation(data(), target=target)
        logits = torch.stack([net(data())[:, [0, 2]] for net in teachers().values()]).mean(0)
        torch.testing.assert_close(losses["kd"], kl(network(1)(data())[:, [0, 2]], logits))
        losses["loss"].backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in distillation.parameters())


def test_who_is_trained_and_kept():
    given = teachers()
    start = copy.deepcopy({name: net.state_dict() for name, net in given.items()})
    distillation = Distillation(network(1), given).double()
    names = [name for name, _ in distillation.named_parameters()]
    assert {name.partition(".")[0] for name in names} == {"temperature", "teacher_fusion", "student"}
    assert {name.partition(".")[0] for name in distillation.state_dict()} == {
        "temperature",
        "teacher_fusion",
        "student",
    }
    optimizer = torch.optim.SGD(distillation.parameters(), lr=1.0)
    distillation.train()
    distillation(data(), target=LABELS)["loss"].backward()
    optimizer.step()
    for name, net in given.items():
        assert not net.training
        assert not any(p.requires_grad for p in net.parameters())
        assert all(torch.equal(value, start[name][key]) for key, value in net.state_dict().items())
    other = Distillation(network(5), teachers()).double()
    other.load_state_dict(distillation.state_dict())
    for key, value in distillation(data(), target=LABELS).items():
        torch.testing.assert_close(other(data(), target=LABELS)[key], value, rtol=0, atol=0)


def test_lambda_is_one_until_a_curriculum_drives_it():
    distillation = engine(curriculum=ConstantCurriculum(0.25))
    assert distillation.teacher_fusion.lambda_ == 1
    distillation.progress(0)
    assert distillation.teacher_fusion.lambda_ == 0.25


def test_temperatures_stay_in_float32():
    distillation = Distillation(nn.Linear(4, 3), {"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)}).bfloat16()
    assert {p.dtype for p in distillation.teacher_fusion.parameters()} == {torch.float32}
    losses = distillation(data().bfloat16(), target=LABELS)
    losses["loss"].backward()
    assert losses["teacher_fusion"].dtype == torch.float32


def test_teachers_that_are_asked_otherwise():
    x = data()
    expected = engine(teacher_fusion="fixed")(2 * x)["kd"]  # both networks on it
    half = engine(teacher_fusion="fixed", teacher_input=lambda batch: 2 * batch)
    half.student = None
    taught = half.ask(StudentCall((x,), {}), batch=x)
    torch.testing.assert_close(half.losses(network(1)(2 * x), taught)["kd"], expected)
    asked = engine(teacher_fusion="fixed", ask_teacher=lambda net, call: net(2 * call.args[0]))
    torch.testing.assert_close(asked.losses(network(1)(2 * x), asked.ask(StudentCall((x,), {})))["kd"], expected)


def test_a_fusion_that_is_ready():
    fusion = TemperatureFusion(3, NAMES, "global", rule="mixture").double()
    losses = engine(teacher_fusion=fusion)(data(), target=LABELS)
    tau = 0.1 * 1000 ** torch.sigmoid(5 * fusion.temperature.value.detach() - math.log(2))
    mixture = sum((net(data()) / t).softmax(-1) for net, t in zip(teachers().values(), tau, strict=True)) / 3
    torch.testing.assert_close(losses["kd"], kl(network(1)(data()), mixture.log()))


@pytest.mark.filterwarnings("ignore:scores of 'a'")
@pytest.mark.parametrize("kind", ["global", "instance"])
def test_where_teachers_say_nothing_the_others_answer(kind):
    fusion = TemperatureFusion(None, NAMES, kind, normalize=True).double()
    scores = {name: net(data()).detach() for name, net in teachers().items()}
    scores["a"][1] = math.nan
    for each in scores.values():
        each[2] = math.nan
    fused, _ = fusion(scores)
    expected = torch.stack([scores["b"][1], scores["c"][1]]).log_softmax(-1)
    expected = expected.mean(0) if kind == "instance" else expected.sum(0) / 3  # one τ for all samples
    torch.testing.assert_close(fused[1], expected.log_softmax(-1))
    torch.testing.assert_close(fused[2].exp(), torch.full((3,), 1 / 3, dtype=torch.float64))
    fused.sum().backward()
    assert all(p.grad.isfinite().all() for p in fusion.parameters())


class NaN(nn.Linear):
    def forward(self, x):
        return super().forward(x) * math.nan


CASES = {
    "one teacher": (lambda: Distillation(network(1), network(2), teacher_fusion="fixed"), "and there is one: pass"),
    "one by name": (lambda: Distillation(network(1), {"a": network(2)}, teacher_fusion="fixed"), "and there is one"),
    "no kind": (lambda: engine(teacher_fusion="globl"), "teacher_fusion is 'globl': .*global"),
    "no target": (lambda: engine()(data()), "learned from targets, and this step has none: .*teacher_fusion='fixed'"),
    "features": (lambda: engine(method={"hint": FitNet()}), "method hint reads features of the teacher, and several"),
    "layers": (lambda: engine(teacher_layers={"pooled": "0"}), "teacher_layers name features"),
    "other classes": (
        lambda: Distillation(network(1), {"a": network(2), "b": network(3), "odd": network(4, 5)})(data().float()),
        "teacher 'odd' gives scores of shape",
    ),
    "the student's": (
        lambda: Distillation(network(1, 4), teachers()).double()(data(), target=LABELS),
        "the student scores 4 classes and the teacher 3",
    ),
    "NaN": (
        lambda: Distillation(network(1), {**teachers(), "broken": NaN(4, 3).double()}).double()(data(), target=LABELS),
        "of the teachers 'broken': the teacher gave logits that are NaN",
    ),
    "a softmax": (
        lambda: Distillation(network(1), {"a": network(2), "b": nn.Sequential(network(3), nn.Softmax(-1))})(
            data(), target=LABELS
        ),
        "of the teachers 'b': the teacher's scores are probabilities",
    ),
    "others": (
        lambda: engine(teacher_fusion=TemperatureFusion(3, ["a", "b"])),
        "is of a, b, and the teachers are a, b, c",
    ),
    "a joint head": (
        lambda: engine(teacher_fusion=TemperatureFusion(3, NAMES, joint={"a": 8})),
        "teacher_fusion reads features",
    ),
    "another task": (
        lambda: engine(teacher_fusion=TemperatureFusion(3, NAMES, task="multilabel")),
        "teacher_fusion is of task 'multilabel'",
    ),
    "scores twice": (
        lambda: engine(teacher_fusion=TemperatureFusion(3, NAMES), scores={"teacher": "probabilities"}),
        "pass it scores=",
    ),
    "a mixture's level": (
        lambda: TemperatureFusion(3, NAMES, rule="mixture", normalize=True),
        "normalize is of a product's temperatures",
    ),
    "levels of none": (
        lambda: fit_temperatures(TemperatureFusion(3, ["a"], "global", normalize=True), {"a": data()[:, :3]}, LABELS),
        "normalize=True takes it away",
    ),
    "a prior of unknown classes": (lambda: TemperatureFusion(None, NAMES, prior=[0.5, 0.5]), "pass num_classes"),
    "a method's name": (lambda: engine(method={"teacher_fusion": KD()}), "other than loss, ce and teacher_fusion"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:scores of 'broken'")
def test_what_cannot_be(case):
    make, message = CASES[case]
    with pytest.raises(UserError, match=message) as found:
        make()
    assert "\n" not in str(found.value)
