"""The examples of the engine take the steps of a loop written by hand, and a student gains by its teacher."""

import copy
import importlib.util
import math
import re
import runpy
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import seed_everything
from quiet import quiet_trainer
from torch.utils.data import DataLoader

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, STEPS, SIZE = 4, 3, 6

with_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None or importlib.util.find_spec("accelerate") is None,
    reason="needs transformers and accelerate",
)


def example(name):
    return runpy.run_path(str(ROOT / "examples" / f"distillation_{name}.py"))


def cosine(epoch, epochs):
    return (1 - math.cos(math.pi * min(epoch / epochs, 1))) / 2


class ByHand:
    """Plain torch: CE's weight 0.1, KD's 0.9; the temperature climbs where the student descends."""

    def __init__(self, student, teacher, task, divergence, start, width, rate, ramp, clip=None):
        self.student, self.teacher, self.task, self.divergence = student, teacher, task, divergence
        self.start, self.width, self.ramp, self.clip = start, width, ramp, clip
        self.raw = torch.ones((), dtype=torch.float64, requires_grad=True)
        self.parameters = [*student.parameters(), self.raw]
        self.optimizer = torch.optim.Adam(self.parameters, lr=rate)

    @property
    def tau(self):
        return self.start + self.width * torch.sigmoid(self.raw)

    def step(self, epoch, x, y):
        with torch.no_grad():
            guide = self.teacher(x)
        scores = self.student(x)
        terms = self.task(scores, y), self.divergence(scores, guide, self.tau, y)
        self.optimizer.zero_grad()
        loss = 0.1 * terms[0] + 0.9 * terms[1]
        loss.backward()
        self.raw.grad *= -cosine(epoch, self.ramp)
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        return [term.item() for term in (loss, *terms)]


def of_each_label(student, teacher, tau, target):
    total = 0.0
    for sign in (1, -1):
        log_p, log_q = F.logsigmoid(sign * teacher / tau), F.logsigmoid(sign * student / tau)
        total = total + F.kl_div(log_q, log_p, log_target=True, reduction="none")
    return tau**2 * total.mean()


def of_kept(dim, ignored):
    def divergence(student, teacher, tau, target):
        log_p, log_q = (teacher / tau).log_softmax(dim), (student / tau).log_softmax(dim)
        return tau**2 * F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(dim)[target != ignored].mean()

    return divergence


def binary(case):
    teacher, student = case["network"](12), case["network"](5)
    x, y = torch.rand(STEPS, SIZE, 64), torch.randint(2, (STEPS, SIZE, 1))
    hand = F.binary_cross_entropy_with_logits, of_each_label, 1.0, 4.0, 0.01
    return teacher, student, x, y.double(), hand


def multilabel(case):
    teacher, student = case["network"](6), case["network"](3)
    x, y = torch.rand(STEPS, SIZE, 1, 16, 16), torch.randint(2, (STEPS, SIZE, 10))
    hand = F.binary_cross_entropy_with_logits, of_each_label, 1.0, 4.0, 0.005
    return teacher, student, x, y.double(), hand


def segmentation(case):
    teacher, student = case["Network"](5), case["Network"](3)
    x, y = torch.rand(STEPS, SIZE, 1, 16, 16), torch.randint(6, (STEPS, SIZE, 16, 16))
    y[torch.rand(y.shape) < 0.3] = 255
    hand = lambda s, y: F.cross_entropy(s, y, ignore_index=255), of_kept(1, 255), 1.0, 3.0, 0.01
    return teacher, student, x, y, hand


def sequences(case):
    characters, length = 7, 9
    teacher, student = case["Network"](characters, 8), case["Network"](characters, 4)
    x = torch.randint(1, characters, (STEPS, SIZE, length))
    y = torch.randint(1, characters, x.shape)
    padding = torch.arange(length) >= torch.randint(3, length + 1, (STEPS, SIZE, 1))
    x[padding], y[padding] = 0, -100
    hand = lambda s, y: F.cross_entropy(s.flatten(0, 1), y.flatten()), of_kept(-1, -100), 1.0, 1.0, 0.01
    return teacher, student, x, y, hand


@pytest.mark.parametrize("make", [binary, multilabel, segmentation, sequences])
def test_the_steps_are_those_of_a_loop_by_hand(make, tmp_path):
    seed_everything(3, verbose=False)
    case = example(make.__name__)
    teacher, student, x, y, (task, divergence, start, width, rate) = make(case)
    teacher, student = teacher.double(), student.double()
    x = x.double() if x.is_floating_point() else x
    clip = 1.0 if make is sequences else None
    own = copy.deepcopy(student)
    hand = ByHand(own, copy.deepcopy(teacher), task, divergence, start, width, rate, case["EPOCHS"] // 2, clip)

    module = case["distilled"](teacher, student).double()
    trainer = quiet_trainer(tmp_path, max_epochs=EPOCHS, gradient_clip_val=clip)
    trainer.fit(module, DataLoader(list(zip(x, y, strict=True)), batch_size=None))
    for epoch in range(EPOCHS):
        losses = [hand.step(epoch, *batch) for batch in zip(x, y, strict=True)]

    for found, expected in zip(student.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(module.temperature(None, None), hand.tau, rtol=0, atol=1e-10)
    assert abs(hand.raw.item() - 1) > 1e-3  # the temperature moved
    for name, values in zip(("loss", "ce", "kd"), zip(*losses, strict=True), strict=True):
        assert float(trainer.callback_metrics[f"train/{name}"]) == pytest.approx(sum(values) / STEPS, rel=1e-6)


def test_the_plain_loop_is_one_by_hand():
    case = example("plain_loop")
    torch.manual_seed(4)
    teacher, student = case["network"](12).double(), case["network"](6).double()
    x, y = torch.rand(70, 64, dtype=torch.float64), torch.randint(10, (70,))
    own = copy.deepcopy(student)
    hand = ByHand(own, teacher, F.cross_entropy, of_kept(1, -100), 1.0, 20.0, 0.01, ramp=3)
    distillation = case["Distillation"](student, teacher, curriculum=case["CosineCurriculum"](epochs=3)).double()

    torch.manual_seed(5)
    history = case["distil"](distillation, x, y, epochs=EPOCHS)
    torch.manual_seed(5)
    for epoch in range(EPOCHS):
        batches = torch.randperm(70).split(case["BATCH"])
        losses = [hand.step(epoch, x[rows], y[rows]) for rows in batches]
        means = [
            sum(v * len(rows) for v, rows in zip(of, batches, strict=True)) / 70 for of in zip(*losses, strict=True)
        ]
        assert history[epoch] == pytest.approx(dict(zip(("loss", "ce", "kd"), means, strict=True)), abs=1e-10)
    for found, expected in zip(student.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(distillation.temperature(None, None), hand.tau, rtol=0, atol=1e-9)


def test_several_teachers_take_the_steps_of_a_loop_by_hand():
    """A temperature for each teacher: the fused teachers teach the student, and learn from the labels alone."""
    case = example("several_teachers")
    torch.manual_seed(7)
    student, teachers = case["network"](8).double(), {n: case["network"](12).double() for n in ("a", "b", "c")}
    x, y = torch.rand(70, 64, dtype=torch.float64), torch.randint(10, (70,))
    own = copy.deepcopy(student)
    start = math.log(10) / math.log(1000)  # where τ = 1 lies between 0.1 and 100
    offset = math.log(start / (1 - start))
    raw = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([*own.parameters(), raw], lr=0.01)

    distillation = case["distilled"](teachers, student, "global").double()
    torch.manual_seed(5)
    case["distil"](distillation, x, y, epochs=EPOCHS)
    torch.manual_seed(5)
    for _ in range(EPOCHS):
        for rows in torch.randperm(70).split(case["BATCH"]):
            with torch.no_grad():
                scores = torch.stack([teacher(x[rows]).log_softmax(-1) for teacher in teachers.values()])
            share = 1 / (0.1 * 1000 ** torch.sigmoid(offset + 5 * raw))
            share = share / share.sum()
            fused = (share[:, None, None] * scores).sum(0).log_softmax(-1)
            log_p, log_q = (fused.detach() / 2).log_softmax(-1), (own(x[rows]) / 2).log_softmax(-1)
            kd = 4 * F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
            optimizer.zero_grad()
            (0.1 * F.cross_entropy(own(x[rows]), y[rows]) + 0.9 * kd + F.nll_loss(fused, y[rows])).backward()
            optimizer.step()
    assert (raw.detach() - raw.detach().mean()).abs().max() > 1e-3
    torch.testing.assert_close(distillation.teacher_fusion.temperature.value, raw, rtol=0, atol=1e-6)
    for found, expected in zip(student.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@with_transformers
def test_accumulated_steps_of_transformers_are_those_of_a_loop_by_hand(tmp_path):
    """Two half batches an optimizer's step: their mean, whichever sample is in which half."""
    case = example("transformers")
    torch.manual_seed(6)
    teacher, student = case["transformer"](12).double(), case["transformer"](8).double()
    x, y = torch.rand(64, 1, 8, 8, dtype=torch.float64), torch.randint(10, (64,))
    own, guide = copy.deepcopy(student), copy.deepcopy(teacher).eval()
    logits_of = [torch.nn.Sequential(network) for network in (own, guide)]
    for network in logits_of:
        network.register_forward_hook(lambda module, args, output: output.logits)
    hand = ByHand(*logits_of, F.cross_entropy, of_kept(1, -100), 1.0, 4.0, 3e-3, ramp=case["EPOCHS"] // 2)

    distillation = case["distilled"](teacher).double()
    settings = {"gradient_accumulation_steps": 2, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    args = case["settings"](tmp_path, num_train_epochs=EPOCHS, **settings)
    samples = [{"pixel_values": image, "labels": int(label)} for image, label in zip(x, y, strict=True)]
    case["DistillationTrainer"](student, args, train_dataset=samples, distillation=distillation).train()
    for epoch in range(EPOCHS):
        hand.step(epoch, x, y)

    for found, expected in zip(student.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(distillation.temperature(None, None), hand.tau, rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["binary", "multilabel", "segmentation", "sequences"])
def test_a_student_gains_by_its_teacher(name):
    results = example(name)["main"](seeds=(0,))
    assert results["gain"] > 0


@pytest.mark.slow
def test_a_broken_teacher_is_turned_down():
    results = example("several_teachers")["main"](seeds=(0, 1, 2))
    good = results["student, the good two"]
    assert results["student, averaged"] < good - 1
    assert results["student, instance"] > good - 0.5
    assert results["share of the broken, instance"] < 10


@pytest.mark.slow
def test_the_plain_loop_learns():
    assert example("plain_loop")["main"]()["student distilled"] > 0.85  # a guesser has 0.1


@pytest.mark.slow
@with_transformers
def test_transformers_learn():
    assert example("transformers")["main"]()["student distilled"] > 0.6  # a guesser has 0.1


DOCS = ROOT / "docs" / "distillation.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL) if DOCS.exists() else []


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_code_in_the_docs(code):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        exec(compile(code, str(DOCS), "exec"), {})
