"""Logits of all shapes, methods, masks and targets; and what a user may get wrong."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ctkd_lightning import (
    ConstantCurriculum,
    CurriculumTemperatureCallback,
    FixedTemperature,
    GlobalTemperature,
    InstanceTemperature,
)
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import DKD, KD, dkd_loss
from ctkd_lightning.models import save_weights
from tests.callbacks import foreign
from tests.callbacks.foreign import Plain, difference, loader, trainer

TAU = 2.0


def fit(tmp_path, module, *, data=None, **settings):
    defaults = {"teacher": foreign.teacher(), "temperature": FixedTemperature(TAU)}
    added = CurriculumTemperatureCallback(ConstantCurriculum(), **(defaults | settings))
    run = trainer(tmp_path, added, max_steps=1, max_epochs=-1)
    run.fit(module, loader() if data is None else data)
    return added


def one_step(net, loss):
    """The network after one step of the same optimizer on a loss."""
    loss.backward()
    torch.optim.SGD(net.parameters(), lr=foreign.LEARNING_RATE, momentum=foreign.MOMENTUM).step()
    return net


def kl(student, teacher, tau=TAU):
    """Rows (N, C), by torch."""
    log_q, log_p = (F.log_softmax(z / tau, dim=-1) for z in (student, teacher))
    return F.kl_div(log_q, log_p, log_target=True, reduction="batchmean") * tau**2


class Output:
    def __init__(self, logits):
        self.logits = logits


# how the network wraps its logits, how the user's step unwraps them, whether the callback must be told
WRAPPERS = {
    "attribute": (Output, lambda output: output.logits, False),
    "mapping": (lambda logits: {"logits": logits, "hidden": None}, lambda output: output["logits"], False),
    "callable": (lambda logits: (None, logits), lambda output: output[1], True),
}


class Wrapping(nn.Module):
    def __init__(self, net, wrap):
        super().__init__()
        self.net, self.wrap = net, wrap

    def forward(self, x):
        return self.wrap(self.net(x))


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_logits_in_outputs(tmp_path, who, kind):
    wrap, unwrap, told = WRAPPERS[kind]

    class Part(Plain):
        def training_step(self, batch, batch_idx):
            output = self.net(batch[0])
            return F.cross_entropy(unwrap(output) if who == "student" else output, batch[1])

    student = Wrapping(foreign.student(), wrap) if who == "student" else foreign.student()
    teacher = Wrapping(foreign.teacher(), wrap) if who == "teacher" else foreign.teacher()
    module = Part(student)
    fit(tmp_path, module, teacher=teacher, student="net", **({f"{who}_logits": unwrap} if told else {}))
    x, y = (z[:8] for z in foreign.samples())
    net = foreign.student()
    expected = one_step(net, 0.1 * F.cross_entropy(net(x), y) + 0.9 * kl(net(x), foreign.teacher()(x)))
    assert difference(module.net, expected) <= 1e-6


class Sequences(nn.Module):
    """(B, T) tokens to (B, T, C)."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(7, 5, generator=generator))

    def forward(self, tokens):
        return self.table[tokens]


class Maps(Sequences):
    """(B, H, W) to (B, C, H, W)."""

    def forward(self, tokens):
        return super().forward(tokens).movedim(-1, 1)


class Dense(Plain):
    def __init__(self, net, ignore=-100):
        super().__init__(net)
        self.ignore = ignore

    def training_step(self, batch, batch_idx):
        logits = self(batch["tokens"])
        flat = logits.movedim(1, -1) if isinstance(self.net, Maps) else logits
        return F.cross_entropy(flat.flatten(0, -2), batch["labels"].flatten(), ignore_index=self.ignore)


def dense_data(shape):
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(7, shape, generator=generator)
    labels = torch.randint(5, shape, generator=generator)
    ignored = torch.rand(shape, generator=generator) < 0.4
    labels[ignored] = -100
    data = [{"tokens": t, "labels": y} for t, y in zip(tokens, labels, strict=True)]
    return tokens, labels, DataLoader(data, batch_size=shape[0])


@pytest.mark.parametrize("temperature", ["fixed", "instance"])
@pytest.mark.parametrize(("kind", "shape"), [(Sequences, (6, 9)), (Maps, (4, 3, 5))])
def test_dense_logits_with_a_mask(tmp_path, kind, shape, temperature):
    tokens, labels, data = dense_data(shape)
    module, teacher, net = Dense(kind(1)), kind(2), kind(1)
    tau = FixedTemperature(TAU) if temperature == "fixed" else InstanceTemperature(5, tau_init=1.0, tau_range=2.0)
    if temperature == "instance":  # the same for every position, and halfway
        nn.init.zeros_(tau.out.bias)
    settings = {"class_dim": 1} if kind is Maps else {}
    added = fit(
        tmp_path, module, data=data, teacher=teacher, temperature=tau, mask=lambda b: b["labels"] != -100, **settings
    )
    kept = labels != -100
    student, expected = (z(tokens).movedim(1, -1) if kind is Maps else z(tokens) for z in (net, teacher))
    ce = F.cross_entropy(student[kept], labels[kept])
    assert difference(module.net, one_step(net, 0.1 * ce + 0.9 * kl(student[kept], expected[kept]))) <= 1e-6
    assert added.temperature is tau


@pytest.mark.parametrize("target", ["found", "picked"])
def test_method_with_targets(tmp_path, target):
    picker = {} if target == "found" else {"target": lambda batch: batch[1]}
    method = DKD(weight=2.0, alpha=1.0, beta=3.0)
    module, net = Plain(), foreign.student()
    fit(tmp_path, module, method=method, ce_weight=1.0, **picker)
    x, y = (z[:8] for z in foreign.samples())
    weight = float(method.weight)  # of the first epoch, where the method warms up
    loss = F.cross_entropy(net(x), y) + weight * dkd_loss(net(x), foreign.teacher()(x), y, TAU, 1.0, 3.0)
    assert difference(module.net, one_step(net, loss)) <= 1e-6


def test_method_with_targets_on_a_masked_map(tmp_path):
    tokens, labels, data = dense_data((4, 3, 5))
    module, net, teacher = Dense(Maps(1)), Maps(1), Maps(2)
    method = DKD(weight=1.0, alpha=1.0, beta=2.0)
    fit(tmp_path, module, data=data, teacher=teacher, method=method, class_dim=1, mask=lambda b: b["labels"] != -100)
    kept = labels != -100
    student, expected = (z(tokens).movedim(1, -1)[kept] for z in (net, teacher))
    kd = float(method.weight) * dkd_loss(student, expected, labels[kept], TAU, 1.0, 2.0)
    assert difference(module.net, one_step(net, 0.1 * F.cross_entropy(student, labels[kept]) + kd)) <= 1e-6


def test_target_that_is_nowhere(tmp_path):
    class OnlyImages(Plain):
        def training_step(self, batch, batch_idx):
            return self(batch[0]).square().mean()

    data = DataLoader(TensorDataset(foreign.samples()[0]), batch_size=8)
    with pytest.raises(UserError, match=r"needs the class indices.* pick them with target=lambda batch: …"):
        fit(tmp_path, OnlyImages(), data=data, method=DKD())
    fit(tmp_path, OnlyImages(), data=data)  # KD needs none


def test_calls_without_gradients_do_not_count(tmp_path):
    class Peeking(Plain):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                self(batch[0] * 2)
            return super().training_step(batch, batch_idx)

    module, plain = Peeking(), Plain()
    fit(tmp_path, module)
    fit(tmp_path, plain)
    assert difference(module, plain) == 0


def test_keyword_arguments_reach_the_teacher(tmp_path):
    class Scaled(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x, *, scale):
            return self.net(x) * scale

    class Keyword(Plain):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(x=batch[0], scale=0.5), batch[1])

    module, net = Keyword(Scaled(foreign.student())), foreign.student()
    fit(tmp_path, module, student="net", teacher=Scaled(foreign.teacher()))
    x, y = (z[:8] for z in foreign.samples())
    loss = 0.1 * F.cross_entropy(net(x) * 0.5, y) + 0.9 * kl(net(x) * 0.5, foreign.teacher()(x) * 0.5)
    assert difference(module.net, one_step(net, loss)) <= 1e-6


def test_skipped_steps_stay_skipped(tmp_path):
    class Skipping(Plain):
        def training_step(self, batch, batch_idx):
            return None

    module = Skipping()
    added = CurriculumTemperatureCallback(teacher=foreign.teacher())
    trainer(tmp_path, added, max_epochs=1).fit(module, loader())
    assert difference(module, Plain()) == 0


def test_teacher_from_a_file(tmp_path):
    save_weights(foreign.teacher(), tmp_path / "teacher.safetensors")
    module, reference = Plain(), Plain()
    blank = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    fit(tmp_path, module, teacher=tmp_path / "teacher.safetensors", teacher_model=blank)
    fit(tmp_path, reference)
    assert difference(module, reference) == 0


def test_teacher_that_is_a_lightning_module(tmp_path):
    module, reference = Plain(), Plain()
    fit(tmp_path, module, teacher=Plain(foreign.teacher()))
    fit(tmp_path, reference)
    assert difference(module, reference) == 0


class NoForward(Plain):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])


class Detached(Plain):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + 0 * self.net[0].weight.sum()

    def forward(self, x):
        return self.net(x).detach()


class BackwardByHand(foreign.Manual):
    def training_step(self, batch, batch_idx):
        F.cross_entropy(self(batch[0]), batch[1]).backward()


class ManualWithoutStudent(foreign.Manual):
    def training_step(self, batch, batch_idx):
        self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))


class WithTemperature(Plain):
    def __init__(self):
        super().__init__()
        self.temperature = GlobalTemperature()


class TwoOptimizers(foreign.DistillingManual):
    def training_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]


class Lbfgs(Plain):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters())


def ten_classes():
    return nn.Linear(4, 10)


def broken():
    net = foreign.teacher()
    nn.init.constant_(net[2].bias, float("nan"))
    return net


MISTAKES = {
    "no such student": (
        Plain,
        {"student": "nett"},
        r"Plain has no network 'nett', given as student: did you mean net or .*\? At its top are net",
    ),
    "student never called": (
        NoForward,
        {},
        r"training_step of NoForward did not call NoForward\.forward.*student='NAME'\); there are net",
    ),
    "student never called, by hand": (ManualWithoutStudent, {}, r"did not call ManualWithoutStudent\.forward"),
    "no manual_backward": (BackwardByHand, {}, r"no self\.manual_backward\(loss\) after its student"),
    "other classes": (
        Plain,
        {"teacher": ten_classes()},
        r"the student scores 3 classes and the teacher 10 .*take a teacher of the same classes",
    ),
    "other positions": (
        Plain,
        {"teacher": nn.Flatten(0)},
        r"student logits have shape \(8, 3\), the teacher's \(32,\): both must score the same positions",
    ),
    "teacher without a tensor": (
        Plain,
        {"teacher": Wrapping(foreign.teacher(), lambda logits: (logits, None))},
        r"teacher gave a tuple without a tensor of logits: .* pick them with teacher_logits=lambda output: …",
    ),
    "picker without a tensor": (
        Plain,
        {"student_logits": lambda output: None},
        r"what student_logits picked is a NoneType: expected a tensor",
    ),
    "NaN": (Plain, {"teacher": broken()}, "the teacher gave logits that are NaN or infinite: check its weights"),
    "two temperatures of one name": (
        WithTemperature,
        {},
        r"two learned temperatures are named 'temperature': rename .* pass it as temperature=module\.temperature",
    ),
    "detached": (Detached, {}, "the student's logits have no gradient"),
    "lazy teacher": (Plain, {"teacher": nn.LazyLinear(3)}, r"'weight' has no shape yet.*run the teacher once"),
    "teacher without values": (Plain, {"teacher": foreign.teacher().to("meta")}, "is on the meta device"),
    "LBFGS": (Lbfgs, {"temperature": GlobalTemperature()}, "LBFGS cannot train a learned temperature"),
    "two optimizers": (TwoOptimizers, {}, r"temperature\.value is in 2 optimizers"),
    "mask of too many": (
        Plain,
        {"mask": lambda b: [b[1], b[1]]},
        r"mask picked 2 × Tensor .* called the student 1 time",
    ),
    "mask of another shape": (
        Plain,
        {"mask": lambda b: b[0]},
        r"mask has shape \(8, 4\), the logits' positions are \(8",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_training(tmp_path, mistake):
    make, settings, message = MISTAKES[mistake]
    module, defaults = make(), {"teacher": foreign.teacher(), "temperature": FixedTemperature(TAU)}
    if mistake == "two optimizers":
        defaults = {}
    added = CurriculumTemperatureCallback(**(defaults | settings))
    with pytest.raises(UserError, match=message) as error:
        trainer(tmp_path, added, max_epochs=1).fit(module, loader())
    assert "\n" not in str(error.value)
    assert "training_step" not in vars(module)


def test_teacher_that_breaks_later(tmp_path):
    class Late(Plain):
        def on_train_batch_start(self, batch, batch_idx):
            if batch_idx == 2:
                nn.init.constant_(guide[2].bias, float("inf"))

    guide = foreign.teacher()
    with pytest.raises(UserError, match="NaN or infinite"):
        trainer(tmp_path, CurriculumTemperatureCallback(teacher=guide)).fit(Late(), loader())


def test_teacher_that_is_the_student(tmp_path):
    module = Plain()
    with pytest.raises(UserError, match=r"shares 4 trained parameter\(s\) with Plain, such as 'net.0.weight'"):
        trainer(tmp_path, CurriculumTemperatureCallback(teacher=module.net)).fit(module, loader())
    assert all(p.requires_grad for p in module.parameters())
    trainer(tmp_path, CurriculumTemperatureCallback(teacher=copy.deepcopy(module.net))).fit(module, loader())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student": "net"}, "pass teacher= too"),
        ({"temperature": GlobalTemperature()}, "pass teacher= too"),
        ({"mask": len}, "pass teacher= too"),
        ({"ce_weight": 1.0}, "pass teacher= too"),
        ({"teacher": "weights.pth"}, r"'weights\.pth' is a file of weights: pass the network .* as teacher_model="),
        ({"teacher": foreign.teacher(), "teacher_model": foreign.teacher()}, "teacher_model is the network for"),
        ({"teacher": 3}, "teacher must be a module or a path, found a int"),
        (
            {"teacher": foreign.teacher(), "method": KD(), "kd_weight": 1.0},
            r"give KD its own, as in method=KD\(weight=…",
        ),
    ],
)
def test_mistakes_in_settings(settings, message):
    with pytest.raises(UserError, match=message):
        CurriculumTemperatureCallback(**settings)


@pytest.mark.parametrize("strategy", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_strategies_that_shard(strategy):
    run = SimpleNamespace(strategy=type(f"My{strategy}", (type(strategy, (), {}),), {})())
    with pytest.raises(UserError, match=rf"{strategy} .* in the module is one number: .* FixedTemperature\(4.0\)"):
        CurriculumTemperatureCallback().setup(run, WithTemperature(), "fit")
    fixed = CurriculumTemperatureCallback(teacher=foreign.teacher(), temperature=FixedTemperature(4.0))
    fixed.setup(run, Plain(), "fit")
    brought = CurriculumTemperatureCallback(teacher=foreign.teacher())
    if strategy == "ModelParallelStrategy":
        brought.setup(run, Plain(), "fit")
    else:
        with pytest.raises(UserError, match=rf"{strategy} .* cannot be trained beside: .* FixedTemperature\(4.0\)"):
            brought.setup(run, Plain(), "fit")
