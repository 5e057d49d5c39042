"""The engine in a plain loop, against loops written in plain torch; tasks, masks, temperatures, and what it refuses."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ctkd_lightning import Distillation, FixedTemperature, GlobalTemperature, LinearCurriculum
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import (
    AT,
    CRD,
    DIST,
    DKD,
    KD,
    PKT,
    FitNet,
    NetworkOutput,
    Step,
    at_loss,
    dist_loss,
    dkd_loss,
    pkt_loss,
)
from ctkd_lightning.temperature import LSKDTemperature, Temperature

TAU = 3.0


def data(seed=0, batch=6, width=4):
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(seed, classes=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, classes)).double()


def engine(student=None, teacher=None, **settings):
    settings = {"temperature": FixedTemperature(TAU)} | settings
    return Distillation(student or network(1), teacher or network(2), **settings)


def kl(student, teacher, tau=TAU):
    log_q, log_p = (F.log_softmax(z / tau, dim=-1) for z in (student, teacher))
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1) * tau**2


def test_a_loop_of_ones_own():
    x, y = data(), torch.tensor([0, 1, 2, 0, 1, 2])
    curriculum = LinearCurriculum(epochs=4, start=0.5)
    distillation = Distillation(
        network(1),
        network(2),
        temperature=GlobalTemperature(0.5, 4.0, initial_value=0.0).double(),
        curriculum=curriculum,
    )
    optimizer = torch.optim.SGD(distillation.parameters(), lr=0.5, momentum=0.9)
    kept = []
    for epoch in range(3):
        distillation.progress(epoch, epoch / 3)
        for _ in range(4):
            optimizer.zero_grad()
            distillation(x, target=y)["loss"].backward()
            optimizer.step()
        kept.append(distillation.collect()["loss"])

    net, guide, value = network(1), network(2), torch.zeros((), dtype=torch.float64, requires_grad=True)
    by_hand, expected = torch.optim.SGD([*net.parameters(), value], lr=0.5, momentum=0.9), []
    for epoch in range(3):
        losses = []
        for _ in range(4):
            by_hand.zero_grad()
            with torch.no_grad():
                t = guide(x)
            tau = 0.5 + 4 * torch.sigmoid(value)
            loss = 0.1 * F.cross_entropy(net(x), y) + 0.9 * kl(net(x), t, tau).mean()
            loss.backward()
            value.grad.mul_(-curriculum(epoch))
            by_hand.step()
            losses.append(loss.detach())
        expected.append(torch.stack(losses).mean())
    torch.testing.assert_close(torch.stack(kept), torch.stack(expected))
    for a, b in zip(distillation.student.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(distillation.temperature.value, value)


def test_the_teacher_stands_still_and_is_in_no_checkpoint():
    teacher = network(2)
    start = copy.deepcopy(teacher.state_dict())
    distillation = engine(teacher=teacher)
    torch.optim.SGD(distillation.parameters(), lr=1.0)
    distillation(data(), target=torch.zeros(6).long())["loss"].backward()
    assert not any(name.startswith("teacher") for name in distillation.state_dict())
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(a, start[name]) for name, a in teacher.state_dict().items())


TASKS = {"binary column": (1, (6, 1)), "binary row": (1, (6,)), "labels": (5, (6, 5))}


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("probabilities", [False, True])
def test_sigmoid_scores(kind, probabilities):
    width, shape = TASKS[kind]
    x, there = data(), (torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.5).double()
    there.view(-1)[1] = -100  # not known
    pick = {"student_logits": lambda out: out.reshape(shape), "teacher_logits": lambda out: out.reshape(shape)}
    teacher = network(2, width)
    settings = {"task": "multilabel" if width > 1 else "binary", "ce_weight": 0.3, **pick}
    wrapped = nn.Sequential(teacher, nn.Sigmoid()) if probabilities else teacher
    scores = {"scores": {"teacher": "probabilities"}} if probabilities else {}
    losses = engine(network(1, width), wrapped, **settings, **scores)(x, target=there)
    s, t = network(1, width)(x).reshape(shape), teacher(x).reshape(shape)
    kept = there != -100
    both = [torch.stack([F.logsigmoid(z / TAU), F.logsigmoid(-z / TAU)], -1) for z in (s, t)]
    kd = TAU**2 * F.kl_div(*both, log_target=True, reduction="none").sum(-1)[kept].mean()
    ce = F.binary_cross_entropy_with_logits(s[kept], there[kept])
    torch.testing.assert_close(losses["kd"], kd)
    torch.testing.assert_close(losses["ce"], ce)
    torch.testing.assert_close(losses["loss"], 0.3 * ce + 0.9 * kd)


def test_maps_and_sequences():
    for shape, dim, positions in (((2, 3, 4, 5), 1, (2, 4, 5)), ((2, 7, 3), -1, (2, 7))):
        s, t = (torch.randn(shape, generator=torch.Generator().manual_seed(i)).double() for i in (1, 2))
        y = torch.randint(3, positions, generator=torch.Generator().manual_seed(3))
        y[0, 0] = -100
        kept = y != -100
        losses = Distillation(teacher=network(2), temperature=FixedTemperature(TAU)).losses(s, t, Step(y))
        rows_s, rows_t = (z.movedim(dim, -1)[kept] for z in (s, t))
        torch.testing.assert_close(losses["kd"], kl(rows_s, rows_t).mean())
        torch.testing.assert_close(losses["ce"], F.cross_entropy(rows_s, y[kept]))


METHODS = {
    "kd": (KD, lambda s, t, y: kl(s, t).mean()),
    "dkd": (lambda: DKD(warmup_epochs=0), lambda s, t, y: dkd_loss(s, t, y, TAU)),
    "dist": (DIST, lambda s, t, y: TAU**2 * dist_loss(s, t, TAU)),
    "lskd": (lambda: KD(), lambda s, t, y: kl(*(z / z.std(-1, keepdim=True) for z in (s, t))).mean()),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("how", ["ignored", "mask", "both", "mask of NaN"])
def test_what_is_masked_takes_no_part(name, how):
    make, expected = METHODS[name]
    s, t = (torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(i)).double() for i in (1, 2))
    y, mask = torch.randint(3, (2, 7), generator=torch.Generator().manual_seed(3)), torch.ones(2, 7)
    if how in ("ignored", "both"):
        y[0, 2:4] = -100
    if how != "ignored":
        mask[1, 5:] = 0
    kept = (y != -100) & (mask != 0)
    value = expected(s[kept], t[kept], y[kept])
    if how == "mask of NaN":
        s[1, 5:], t[1, 6] = float("nan"), float("inf")
    s.requires_grad_()
    temperature = LSKDTemperature(FixedTemperature(TAU)) if name == "lskd" else FixedTemperature(TAU)
    distillation = Distillation(teacher=network(2), method=make(), temperature=temperature)
    step = Step(y, mask=None if how == "ignored" else mask)
    losses = distillation.losses(s, t, step)
    torch.testing.assert_close(
        next(v for k, v in losses.items() if k not in ("loss", "ce")), value, rtol=1e-6, atol=1e-9
    )
    gradient = torch.autograd.grad(losses["loss"], s)[0]
    assert gradient.isfinite().all()
    assert not gradient[~kept].any()


def test_samples_that_are_ignored_take_no_part_in_features():
    pooled = [torch.randn(6, d, generator=torch.Generator().manual_seed(d)).double() for d in (4, 5)]
    logits = torch.randn(6, 3).double()
    outputs = [NetworkOutput(logits, {"pooled": p}) for p in pooled]
    y = torch.tensor([0, -100, 2, 1, -100, 0])
    distillation = Distillation(
        teacher=network(2), method={"kd": KD(), "pkt": PKT()}, temperature=FixedTemperature(TAU)
    )
    losses = distillation.losses(*outputs, Step(y))
    torch.testing.assert_close(losses["pkt"], pkt_loss(pooled[0][y >= 0], pooled[1][y >= 0]))
    nothing = distillation.losses(*outputs, Step(torch.full((6,), -100)))
    assert all(float(value) == 0 for value in nothing.values())


def test_features_and_memories():
    class Convolutional(nn.Module):
        def __init__(self, seed, width):
            super().__init__()
            torch.manual_seed(seed)
            self.first, self.second = nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 3)
            self.head = nn.Linear(width, 5)

        def forward(self, x):
            x = torch.relu(self.second(torch.relu(self.first(x))))
            return self.head(x.mean(dim=(2, 3)))

    layers = {"stage1": "first", "stage2": "second"}
    distillation = Distillation(
        Convolutional(1, 6),
        Convolutional(2, 8),
        {"kd": KD(), "fitnet": FitNet(), "at": AT(), "crd": CRD(dim=4, negatives=8)},
        num_samples=12,
        student_layers=layers,
        teacher_layers=layers,
    )
    images = torch.randn(4, 3, 12, 12)
    distillation.build(images)
    assert distillation.student.training
    assert all(part.training for part in distillation.methods.modules())
    losses = distillation(images, target=torch.tensor([0, 1, 2, 3]), index=torch.tensor([3, 7, 1, 11]))
    assert set(losses) == {"loss", "ce", "kd", "fitnet", "at", "crd"}
    losses["loss"].backward()
    assert all(p.grad is not None for p in distillation.methods.parameters())


def test_every_temperature_hears_of_the_progress():
    heard = []

    class Listening(Temperature):
        def forward(self, student_logits, teacher_logits):
            return torch.tensor(2.0)

        def set_progress(self, epoch, fraction=None):
            heard.append((epoch, fraction))

    distillation = engine(temperature=LSKDTemperature(Listening()))
    distillation.progress(3, 0.3)
    assert heard == [(3, 0.3)]


def test_teachers_that_are_asked_otherwise():
    x = data()
    halved = engine(teacher_input=lambda batch, call: call.args[0] / 2)(x, target=torch.zeros(6).long())
    torch.testing.assert_close(halved["kd"], kl(network(1)(x), network(2)(x / 2)).mean())
    clean = engine(teacher_input=lambda batch: (batch["clean"],))(x, batch={"clean": 3 * x})
    torch.testing.assert_close(clean["kd"], kl(network(1)(x), network(2)(3 * x)).mean())

    def mean_of_two(teacher, call):
        assert not torch.is_grad_enabled()
        return (teacher(call.args[0]) + teacher(-call.args[0])) / 2

    asked = engine(ask_teacher=mean_of_two)(x)
    torch.testing.assert_close(asked["kd"], kl(network(1)(x), (network(2)(x) + network(2)(-x)) / 2).mean())
    with pytest.raises(UserError, match="teacher_input must be a callable"):
        engine(teacher_input=lambda a, b, c: a)


def constant(row):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor(row, dtype=x.dtype).expand(len(x), -1) + 0 * x[:, :1]

    return Constant()


REFUSED = {
    "softmax in the teacher": (
        {"teacher": nn.Sequential(network(2), nn.Softmax(-1))},
        {},
        r"the teacher's scores are probabilities.*scores=\{'teacher': 'probabilities'\}",
    ),
    "softmax in the student": (
        {"student": nn.Sequential(network(1), nn.Softmax(-1))},
        {},
        "the student's scores are probabilities",
    ),
    "no probabilities": ({"scores": "probabilities"}, {}, "announced as probabilities, found values from"),
    "several labels": ({}, {"target": torch.tensor([[1.0, 1, 0]] * 6)}, "multi-hot.*task='multilabel'"),
    "one class": ({"student": network(1, 1), "teacher": network(2, 1)}, {}, "one class a position.*task='binary'"),
    "other classes": ({"teacher": network(2, 5)}, {}, "student scores 3 classes and the teacher 5"),
    "NaN": ({"teacher": constant([0.0, float("nan"), 1.0])}, {}, "teacher gave logits that are NaN or infinite"),
    "misfit of the target": ({}, {"target": torch.zeros(4).long()}, r"target has shape \(4,\)"),
    "mask of another shape": (
        {},
        {"mask": torch.ones(6, 4)},
        r"mask has shape \(6, 4\), the logits' positions are \(6",
    ),
    "no classes for DKD": ({"method": DKD()}, {}, "DKD needs the class indices"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_right_is_told_at_the_first_batch(case):
    settings, step, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as error:
        engine(**settings)(data(), **step)
    assert "\n" not in str(error.value)


def test_a_sigmoid_that_was_not_announced_is_warned_of():
    teacher = nn.Sequential(network(2, 4), nn.Sigmoid())
    with pytest.warns(UserWarning, match="teacher's scores all lie between 0 and 1"):
        engine(network(1, 4), teacher, task="multilabel")(data())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine(network(1, 4), network(2, 4), task="multilabel")(data())
        engine(network(1), nn.Sequential(network(2), nn.LogSoftmax(-1)))(data())  # as good as logits


def test_the_least_number_of_the_type_masks_classes():
    class Masked(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.net = network(seed).float()

        def forward(self, x):
            logits = self.net(x.float())
            return logits.masked_fill(torch.arange(3) == 1, torch.finfo(logits.dtype).min)

    for autocast in (torch.bfloat16, torch.float16, None):
        with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
            losses = engine(Masked(1), Masked(2))(data(), target=torch.tensor([0, 2, 0, 2, 0, 2]))
        assert losses["loss"].isfinite()
        s, t = (network(i).float()(data().float())[:, [0, 2]] for i in (1, 2))
        torch.testing.assert_close(losses["kd"], kl(s, t).mean(), rtol=0.1 if autocast else 1e-5, atol=1e-3)


def test_a_loss_that_diverges_is_told():
    distillation = engine()
    distillation(data())
    distillation(data() * float("inf"))
    with pytest.raises(UserError, match="distillation loss kd is nan"):
        distillation.collect()


def test_without_a_student():
    with pytest.raises(UserError, match="has no student"):
        Distillation(teacher=network(2))(data())
    with pytest.raises(UserError, match="teacher must be a network"):
        Distillation(network(1))


def test_a_teacher_whose_weights_are_not_there():
    for teacher, found in ((nn.LazyLinear(3), "has no shape yet"), (nn.Linear(4, 3, device="meta"), "the meta device")):
        with pytest.raises(UserError, match=f"the teacher's 'weight' .*{found}"):
            Distillation(nn.Linear(4, 3), teacher)


def test_labels_are_summed_where_it_is_said():
    outputs = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    mask = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0], dtype=torch.float64)
    settings = {"teacher": network(1), "method": KD(weight=1.0), "temperature": FixedTemperature(TAU)}
    engine = Distillation(**settings, task="multilabel", sum_labels=True)
    found = engine.losses(*outputs, Step(mask=mask))["kd"]
    q, p = ((x / TAU).sigmoid() for x in outputs)
    each = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(dim=-1)
    torch.testing.assert_close(found, TAU**2 * (mask * each).sum() / mask.sum())
    with pytest.raises(UserError, match="sum_labels is for task='multilabel', found 'multiclass'"):
        Distillation(**settings, sum_labels=True)


class Described(nn.Module):
    """Gives what it has to say of its input with its logits."""

    def __init__(self, seed):
        super().__init__()
        self.network = network(seed)

    def forward(self, x):
        return NetworkOutput(self.network(x), {"stage1": (x * self.network[0].weight.sum(dim=0)).view(-1, 1, 2, 2)})


def test_features_that_the_outputs_bring_themselves():
    student, teacher = Described(1), Described(2)
    engine = Distillation(student, teacher, method=AT(), roles_of_outputs=["stages"])
    found = engine(data())["at"]
    expected = at_loss(student(data()).features["stage1"], teacher(data()).features["stage1"])
    torch.testing.assert_close(found, expected)
    assert found > 0
    assert found.requires_grad
