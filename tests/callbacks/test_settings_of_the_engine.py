"""What the engine can, the callback can with the same words: against one step in plain torch."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ctkd_lightning import (
    ConstantCurriculum,
    CosineCurriculum,
    CurriculumTemperatureCallback,
    FixedTemperature,
    GlobalTemperature,
    LinearCurriculum,
)
from ctkd_lightning.data import Digits
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import CC, DIST, DKD, KD, dist_loss, dkd_loss
from ctkd_lightning.models import create_model
from tests.callbacks import foreign
from tests.callbacks.foreign import Plain, difference, loader, trainer

TAU = 2.0


def fit(tmp_path, module, data=None, **settings):
    defaults = {"teacher": foreign.teacher(), "temperature": FixedTemperature(TAU)}
    added = CurriculumTemperatureCallback(ConstantCurriculum(), **(defaults | settings))
    run = trainer(tmp_path, added, max_steps=1, max_epochs=-1)
    run.fit(module, loader() if data is None else data)
    return added


def one_step(net, loss):
    loss.backward()
    torch.optim.SGD(net.parameters(), lr=foreign.LEARNING_RATE, momentum=foreign.MOMENTUM).step()
    return net


def kl(student, teacher, tau=TAU):
    log_q, log_p = (F.log_softmax(z / tau, dim=-1) for z in (student, teacher))
    return F.kl_div(log_q, log_p, log_target=True, reduction="batchmean") * tau**2


def sigmoid_kl(student, teacher, tau=TAU):
    both = [torch.stack([F.logsigmoid(z / tau), F.logsigmoid(-z / tau)], -1) for z in (student, teacher)]
    return F.kl_div(*both, log_target=True, reduction="none").sum(-1).mean() * tau**2


def head(seed, labels):
    torch.manual_seed(seed)
    return nn.Linear(4, labels)


class Sigmoid(Plain):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.binary_cross_entropy_with_logits(self(x).reshape(y.shape), y)


@pytest.mark.parametrize(("task", "labels"), [("binary", 1), ("multilabel", 3)])
@pytest.mark.parametrize("probabilities", [False, True])
def test_sigmoid_scores(tmp_path, task, labels, probabilities):
    x = foreign.samples()[0]
    y = (torch.rand(32, labels, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    teacher = head(2, labels)
    settings = {"teacher": teacher}
    if probabilities:
        settings = {"teacher": nn.Sequential(teacher, nn.Sigmoid()), "scores": {"teacher": "probabilities"}}
    module, net = Sigmoid(head(1, labels)), head(1, labels)
    fit(tmp_path, module, DataLoader(TensorDataset(x, y), batch_size=8), task=task, **settings)
    ce = F.binary_cross_entropy_with_logits(net(x[:8]), y[:8])
    expected = one_step(net, 0.1 * ce + 0.9 * sigmoid_kl(net(x[:8]), teacher(x[:8])))
    assert difference(module.net, expected) <= 1e-6


def test_a_sequence_with_ignored_labels_beside_a_padding_mask(tmp_path):
    generator = torch.Generator().manual_seed(4)
    x, padding = torch.randn(4, 6, 4, generator=generator), torch.ones(4, 6, dtype=torch.long)
    y = torch.randint(3, (4, 6), generator=generator)
    y[:, 4:], padding[:, 4:] = -100, 0

    class Tokens(Plain):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]).flatten(0, 1), batch[2].flatten())

    data = DataLoader(TensorDataset(x, padding, y), batch_size=4)
    for method in (DKD(warmup_epochs=0), None):
        with pytest.raises(UserError, match=r"2 entries of shape \(4, 6\) that may be the target.*target=lambda"):
            fit(tmp_path, Tokens(head(1, 3)), data, teacher=head(2, 3), method=method)
    for settings in ({}, {"mask": lambda batch: batch[1]}):
        module, net, teacher = Tokens(head(1, 3)), head(1, 3), head(2, 3)
        method = DKD(weight=1.0, warmup_epochs=0)
        fit(tmp_path, module, data, teacher=teacher, method=method, target=lambda batch: batch[2], **settings)
        kept = y != -100
        kd = dkd_loss(net(x)[kept], teacher(x)[kept], y[kept], TAU)
        assert difference(module.net, one_step(net, 0.1 * F.cross_entropy(net(x)[kept], y[kept]) + kd)) <= 1e-6


def test_maps_whose_labels_say_where_the_classes_are(tmp_path):
    x = torch.randn(4, 4, 3, 5, generator=torch.Generator().manual_seed(4))
    y = torch.randint(3, (4, 3, 5), generator=torch.Generator().manual_seed(5))

    class Pixels(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.head = head(seed, 3)

        def forward(self, x):
            return self.head(x.movedim(1, -1)).movedim(-1, 1)

    module, net, teacher = Plain(Pixels(1)), Pixels(1), Pixels(2)
    fit(tmp_path, module, DataLoader(TensorDataset(x, y), batch_size=4), teacher=teacher)
    rows = [z(x).movedim(1, -1).flatten(0, -2) for z in (net, teacher)]
    assert difference(module.net, one_step(net, 0.1 * F.cross_entropy(net(x), y) + 0.9 * kl(*rows))) <= 1e-6


def test_several_methods_each_with_its_temperature(tmp_path):
    module, net = Plain(), foreign.student()
    temperatures = {"kd": FixedTemperature(2.0), "dist": GlobalTemperature(1.0, 2.0)}
    added = fit(tmp_path, module, method={"kd": KD(), "dist": DIST(weight=0.5)}, temperature=temperatures)
    x, y = (z[:8] for z in foreign.samples())
    s, t = net(x), foreign.teacher()(x)
    tau = 1 + 2 * torch.sigmoid(torch.tensor(1.0))
    loss = 0.1 * F.cross_entropy(s, y) + 0.9 * kl(s, t) + 0.5 * dist_loss(s, t, tau)
    assert difference(module.net, one_step(net, loss)) <= 1e-6
    assert added.temperature["dist"].value != 1.0


def test_a_teacher_that_takes_something_else(tmp_path):
    x, y = (z[:8] for z in foreign.samples())
    ways = {
        "call": {"teacher_input": lambda batch, call: 2 * call.args[0]},
        "batch": {"teacher_input": lambda batch: (2 * batch[0],)},
        "asked": {"ask_teacher": lambda teacher, call: teacher(2 * call.args[0]) + 0 * call.output},
    }
    for settings in ways.values():
        module, net = Plain(), foreign.student()
        fit(tmp_path, module, **settings)
        loss = 0.1 * F.cross_entropy(net(x), y) + 0.9 * kl(net(x), foreign.teacher()(2 * x))
        assert difference(module.net, one_step(net, loss)) <= 1e-6


@pytest.mark.parametrize("accumulate", [1, 2])
def test_epochs_of_the_curriculum_in_steps(tmp_path, accumulate):
    class Stream(IterableDataset):
        def __iter__(self):
            while True:
                yield from zip(*foreign.samples(), strict=True)

    curriculum = LinearCurriculum(epochs=3)
    lambdas = []

    class Watching(Plain):
        def training_step(self, batch, batch_idx):
            lambdas.append(added.temperature.lambda_.item())
            return super().training_step(batch, batch_idx)

    added = CurriculumTemperatureCallback(curriculum, foreign.teacher(), steps_per_epoch=4)
    run = trainer(tmp_path, added, max_steps=8, max_epochs=-1, accumulate_grad_batches=accumulate)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*λ")
        run.fit(Watching(), DataLoader(Stream(), batch_size=8))
    assert lambdas == pytest.approx([curriculum(i / 4) for i in range(8 * accumulate)])


def test_a_curriculum_that_the_training_never_enters_is_told(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            while True:
                yield from zip(*foreign.samples(), strict=True)

    cases = [
        ({"max_steps": 3, "max_epochs": -1}, loader(), "λ never leaves 0 in 0.75 epoch"),
        ({"max_epochs": 1}, loader(), r"λ never leaves 0 in 1 epoch\(s\)"),
        ({"max_steps": 3, "max_epochs": -1}, DataLoader(Stream(), batch_size=8), "λ stays at 0 for 3 steps"),
        ({"max_epochs": 5, "limit_train_batches": 2, "max_steps": 2}, loader(), "λ never leaves 0"),
    ]
    for settings, data, message in cases:
        with pytest.warns(UserWarning, match=message):
            trainer(tmp_path, CurriculumTemperatureCallback(teacher=foreign.teacher()), **settings).fit(Plain(), data)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*λ")
        added = CurriculumTemperatureCallback(CosineCurriculum(2), foreign.teacher(), interval="step")
        trainer(tmp_path, added, max_steps=3, max_epochs=-1).fit(Plain(), loader())
    assert added.temperature.lambda_ > 0


def test_teacher_cache(tmp_path):
    asked = []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = create_model("resnet8", 10)

        def forward(self, x):
            asked.append(len(x))
            return self.net(x)

    class Images(Plain):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch.image), batch.target)

    found = []
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        data = Digits(limit_train=64, batch_size=32, num_workers=0)
        torch.manual_seed(1)
        module = Images(create_model("resnet8", 10))
        added = CurriculumTemperatureCallback(
            ConstantCurriculum(), Counting(), "net", temperature=FixedTemperature(4.0), teacher_cache=cache
        )
        asked.clear()
        trainer(tmp_path, added, max_epochs=1, limit_val_batches=0).fit(module, datamodule=data)
        found.append((module, sum(asked)))
    assert found[0][1] >= 64
    assert found[2][1] <= 2  # the example alone
    assert difference(found[1][0], found[2][0]) == 0
    assert difference(found[0][0], found[1][0]) <= 1e-3  # float16 in the cache
    with pytest.raises(UserError, match="teacher_cache needs batches that say which sample"):
        fit(tmp_path, Plain(), teacher_cache=tmp_path)


class WithHidden(nn.Module):
    def __init__(self, seed, width):
        super().__init__()
        torch.manual_seed(seed)
        self.hidden, self.head = nn.Linear(4, width), nn.Linear(width, 3)

    def forward(self, x):
        return self.head(torch.relu(self.hidden(x)))


def test_what_methods_learn_is_kept_between_trainings_and_in_checkpoints(tmp_path):
    def callback():
        method = {"kd": KD(), "cc": CC(dim=4)}
        return CurriculumTemperatureCallback(ConstantCurriculum(), WithHidden(2, 9), "net", method=method)

    def values(added):
        return torch.cat([p.detach().flatten() for p in added.methods.parameters()])

    added, module = callback(), Plain(WithHidden(1, 5))
    run = trainer(tmp_path, added, max_epochs=1)
    run.fit(module, loader())
    first = values(added)
    assert len(first) == (5 + 9 + 2) * 4
    run.save_checkpoint(tmp_path / "a.ckpt")
    trainer(tmp_path, added, max_epochs=1).fit(module, loader())  # a second training goes on with them
    assert 0 < (values(added) - first).abs().max() < 0.5

    resumed, again = callback(), Plain(WithHidden(1, 5))
    trainer(tmp_path, resumed, max_epochs=2).fit(again, loader(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert 0 < (values(resumed) - first).abs().max() < 0.5
    assert {"method.cc.student_embedding.0.weight", "temperature.value"} <= set(resumed.state_dict()["optimizer"])


def test_warm_ups_by_steps(tmp_path):
    method = DKD(weight=2.0, warmup_epochs=4)
    added = CurriculumTemperatureCallback(
        ConstantCurriculum(), foreign.teacher(), method=method, target=lambda b: b[1], steps_per_epoch=2
    )
    trainer(tmp_path, added, max_epochs=1).fit(Plain(), loader())
    assert method.weight == 1.0  # in the second of four
    with pytest.warns(UserWarning, match=r"DKD ends at 0.5, not at its weight 2"):
        trainer(tmp_path, CurriculumTemperatureCallback(teacher=foreign.teacher(), method=method), max_epochs=1).fit(
            Plain(), loader()
        )
