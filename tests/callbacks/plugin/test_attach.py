"""The loss that joins, in steps of all kinds, against plain torch."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ctkd_lightning import ConstantCurriculum, CurriculumTemperatureCallback, FixedTemperature, GlobalTemperature
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import CRD, DKD, dkd_loss
from tests.callbacks import foreign
from tests.callbacks.foreign import Plain, difference, loader, trainer

TAU, RATE = 3.0, 0.2


def fit(tmp_path, module, data=None, epochs=1, **settings):
    defaults = {"teacher": foreign.teacher(), "temperature": FixedTemperature(TAU)}
    added = CurriculumTemperatureCallback(ConstantCurriculum(), **(defaults | settings))
    trainer(tmp_path, added, max_epochs=epochs).fit(module, loader() if data is None else data)
    return added


def kd(student, teacher):
    """Weighted, by torch."""
    log_q, log_p = (F.log_softmax(z / TAU, dim=-1) for z in (student, teacher))
    return 0.9 * TAU**2 * F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


def batches():
    return [(x, y) for x, y in loader()]


class Adversarial(LightningModule):
    """A generator and a discriminator, in the orders and with the habits that such steps have."""

    automatic_optimization = False

    def __init__(self, order="gd", share=False, toggle=False):
        super().__init__()
        self.g = foreign.student()
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.d = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))
        self.order, self.share, self.toggle = order, share, toggle

    def forward(self, x):
        return self.g(x)

    def loss(self, who, logits):
        return self.d(logits.detach()).mean() if who == "d" else -self.d(logits).mean()

    def training_step(self, batch, batch_idx):
        optimizers = dict(zip("gd", self.optimizers(), strict=True))
        shared = self(batch[0]) if self.share else None
        for who in self.order:
            optimizer = optimizers[who]
            if self.toggle:
                self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(self.loss(who, self(batch[0]) if shared is None else shared))
            optimizer.step()
            if self.toggle:
                self.untoggle_optimizer(optimizer)

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=RATE) for part in (self.g, self.d)]


def adversarial_by_hand(order, share):
    module, guide = Adversarial(), foreign.teacher()
    optimizers = dict(zip("gd", module.configure_optimizers(), strict=True))
    for x, _ in batches():
        shared = module.g(x)
        for who in order:
            logits = shared if share else module.g(x)
            loss = module.loss(who, logits)
            if who == "g":
                loss = 0.1 * loss + kd(logits, guide(x).detach())
            optimizers[who].zero_grad()
            loss.backward()
            optimizers[who].step()
    return module


@pytest.mark.parametrize("toggle", [False, True])
@pytest.mark.parametrize(("order", "share"), [("gd", False), ("dg", False), ("dg", True), ("gd", True)])
def test_adversarial_steps(tmp_path, order, share, toggle):
    module = Adversarial(order, share, toggle)
    fit(tmp_path, module)
    assert difference(module, adversarial_by_hand(order, share)) <= 1e-6
    assert difference(module, Adversarial()) > 0.01


class TwoLosses(Plain):
    """One loss that does not depend on the student's call goes before the one that does."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.stem, self.domain = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.net(self.stem(x))

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        logits = self(batch[0])
        self.manual_backward(self.domain(self.stem(batch[0])).square().mean())
        self.manual_backward(F.cross_entropy(logits, batch[1]))
        optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=RATE)


def test_a_loss_that_depends_on_no_call_goes_through_unchanged(tmp_path):
    module, reference, guide = TwoLosses(), TwoLosses(), foreign.teacher()
    optimizer = reference.configure_optimizers()
    for x, y in batches():
        logits = reference(x)
        loss = reference.domain(reference.stem(x)).square().mean() + 0.1 * F.cross_entropy(logits, y)
        optimizer.zero_grad()
        (loss + kd(logits, guide(x).detach())).backward()
        optimizer.step()
    fit(tmp_path, module)
    assert difference(module, reference) <= 1e-6


def test_several_calls_in_one_loss_by_hand(tmp_path):
    class Views(foreign.Manual):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward((self(batch[0]) - self(2 * batch[0])).square().mean())
            optimizer.step()

    module, net, guide = Views(), foreign.student(), foreign.teacher()
    optimizer = torch.optim.SGD(net.parameters(), lr=foreign.LEARNING_RATE, momentum=foreign.MOMENTUM)
    for x, _ in batches():
        pairs = [(net(k * x), guide(k * x).detach()) for k in (1, 2)]
        optimizer.zero_grad()
        (0.1 * (pairs[0][0] - pairs[1][0]).square().mean() + sum(kd(*pair) for pair in pairs) / 2).backward()
        optimizer.step()
    fit(tmp_path, module)
    assert difference(module.net, net) <= 1e-6


def test_calls_that_the_loss_does_not_depend_on(tmp_path):
    def moved(net, x, y):
        """An adversarial input, made with a call whose graph is gone afterwards."""
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(x), y), x)
        return (x + 0.1 * gradient.sign()).detach()

    class Hardened(Plain):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return F.cross_entropy(self(moved(self, x, y)), y)

    module, net, guide = Hardened(), foreign.student(), foreign.teacher()
    optimizer = torch.optim.SGD(net.parameters(), lr=foreign.LEARNING_RATE, momentum=foreign.MOMENTUM)
    for x, y in batches():
        hard = moved(net, x, y)
        logits = net(hard)
        optimizer.zero_grad()
        (0.1 * F.cross_entropy(logits, y) + kd(logits, guide(hard).detach())).backward()
        optimizer.step()
    fit(tmp_path, module)
    assert difference(module.net, net) <= 1e-6


def test_target_that_the_step_takes_out_of_the_batch(tmp_path):
    class Taking(Plain):
        def training_step(self, batch, batch_idx):
            labels = batch.pop("labels")
            return F.cross_entropy(self(batch.pop("x")), labels)

    rows = [{"x": x, "labels": y} for x, y in zip(*foreign.samples(), strict=True)]
    taking, plain = Taking(), Plain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its warm-up
        fit(tmp_path, taking, DataLoader(rows, batch_size=8), method=DKD(weight=1.0))
        fit(tmp_path, plain, method=DKD(weight=1.0))
    assert difference(taking, plain) <= 1e-6


def test_no_loss_of_the_student(tmp_path):
    class Elsewhere(foreign.Manual):
        def training_step(self, batch, batch_idx):
            self(batch[0])
            self.manual_backward(self.net[0].weight.square().sum())

    with pytest.raises(UserError, match=r"no loss that Elsewhere gave to self\.manual_backward depends on its student"):
        fit(tmp_path, Elsewhere())


class Accumulating(Plain):
    automatic_optimization = False
    batches = 2

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]) / self.batches)
        if (batch_idx + 1) % self.batches == 0:
            optimizer.step()
            optimizer.zero_grad()


def test_accumulation_by_hand(tmp_path):
    module, automatic = Accumulating(), Plain()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*accumulates")
        fit(tmp_path, module, accumulate_grad_batches=2)
    added = CurriculumTemperatureCallback(ConstantCurriculum(), foreign.teacher(), temperature=FixedTemperature(TAU))
    trainer(tmp_path, added, max_epochs=1, accumulate_grad_batches=2).fit(automatic, loader())
    assert difference(module, automatic) <= 1e-6


def test_accumulation_by_hand_that_is_not_declared(tmp_path):
    with pytest.warns(UserWarning, match=r"accumulates the gradients of 2 backward passes.*accumulate_grad_batches=2"):
        fit(tmp_path, Accumulating())


def test_accumulation_that_is_the_trainers(tmp_path):
    with pytest.raises(UserError, match="accumulate_grad_batches=3 is for modules that optimize by hand, and Plain"):
        fit(tmp_path, Plain(), accumulate_grad_batches=3)
    for wrong in (0, 1.5):
        with pytest.raises(UserError, match="accumulate_grad_batches must be a whole number from 1"):
            CurriculumTemperatureCallback(teacher=foreign.teacher(), accumulate_grad_batches=wrong)
    with pytest.raises(UserError, match="pass teacher= too"):
        CurriculumTemperatureCallback(accumulate_grad_batches=2)


class Overwriting(nn.Module):
    """Normalises its input in place, whatever it comes in."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, inputs, *, more=None):
        x = inputs.pop("x") if isinstance(inputs, dict) else inputs
        return self.net(x.sub_(2.0))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["tensor", "keyword", "mapping"])
@pytest.mark.parametrize("who", ["student", "teacher", "both"])
def test_both_networks_see_the_inputs_of_the_call(tmp_path, who, kind, compiled):
    class Step(Plain):
        def training_step(self, batch, batch_idx):
            x, y = batch
            if kind == "keyword":
                return F.cross_entropy(self.net(inputs=x), y)
            return F.cross_entropy(self.net({"x": x} if kind == "mapping" else x), y)

    class Same(Overwriting):
        def forward(self, inputs, *, more=None):
            return self.net((inputs["x"] if isinstance(inputs, dict) else inputs) - 2.0)

    torch._dynamo.reset()
    kinds = [Overwriting if who in (name, "both") else Same for name in ("student", "teacher")]
    module, reference = Step(kinds[0](foreign.student())), Step(Same(foreign.student()))
    run = torch.compile(module, backend="aot_eager") if compiled else module
    fit(tmp_path, run, epochs=2, student="net", teacher=kinds[1](foreign.teacher()))
    fit(tmp_path, reference, epochs=2, student="net", teacher=Same(foreign.teacher()))
    assert difference(module, reference) <= 1e-6


@pytest.mark.parametrize("fetched", [False, True])
@pytest.mark.parametrize("takes_call", [False, True])
def test_teacher_input_reads_the_batch_as_it_came(tmp_path, takes_call, fetched):
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = foreign.student()

        def forward(self, x):
            return self.net(x.mul_(0.5))

    class Written(Plain):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch[0]), batch[1])

    class Fetched(Plain):
        def training_step(self, dataloader_iter):
            batch, _, _ = next(dataloader_iter)
            return F.cross_entropy(self.net(batch[0]), batch[1])

    module, net = (Fetched if fetched else Written)(Writing()), foreign.student()
    picks = [lambda batch: 2 * batch[0], lambda batch, call: batch[0] + call.args[0]]
    data = [(x.clone(), y) for x, y in batches()]
    fit(tmp_path, module, DataLoader(data, batch_size=None), student="net", teacher_input=picks[takes_call])
    optimizer = torch.optim.SGD(net.parameters(), foreign.LEARNING_RATE, foreign.MOMENTUM)
    for x, y in batches():
        logits = net(0.5 * x)
        optimizer.zero_grad()
        (0.1 * F.cross_entropy(logits, y) + kd(logits, foreign.teacher()(2 * x).detach())).backward()
        optimizer.step()
    assert difference(module.net.net, net) <= 1e-6


class Halves(Plain):
    def training_step(self, batch, batch_idx):
        parts = zip(batch[0].chunk(2), batch[1].chunk(2), strict=True)
        return sum(F.cross_entropy(self(x), y) for x, y in parts) / 2


@pytest.mark.parametrize("method", [DKD(warmup_epochs=0), CRD()])
def test_parts_of_a_batch_whose_targets_are_needed(tmp_path, method):
    wanted = (
        r"called the student 2 times, with 4, 4 of the batch's 8 samples.*target=lambda batch: batch\[1\].chunk\(2\)"
    )
    with pytest.raises(UserError, match=wanted) as error:
        fit(tmp_path, Halves(), method=method)
    assert "\n" not in str(error.value)


def test_parts_of_a_batch(tmp_path):
    module, net = Halves(), foreign.student()
    method = {"dkd": DKD(weight=0.5, alpha=1.0, beta=2.0, warmup_epochs=0)}
    fit(tmp_path, module, method=method, target=lambda batch: batch[1].chunk(2))
    optimizer = torch.optim.SGD(net.parameters(), foreign.LEARNING_RATE, foreign.MOMENTUM)
    for x, y in batches():  # all parts have the same size: the mean of the means is the mean
        loss = dkd_loss(net(x), foreign.teacher()(x).detach(), y, TAU, 1.0, 2.0)
        optimizer.zero_grad()
        (0.1 * F.cross_entropy(net(x), y) + 0.5 * loss).backward()
        optimizer.step()
    assert difference(module.net, net) <= 1e-6


def test_parts_of_a_batch_whose_targets_could_be_ignored(tmp_path):
    module, whole = Halves(), Plain()
    with pytest.warns(UserWarning, match=r"which targets are whose.*until then no ignored target") as caught:
        fit(tmp_path, module)
    assert sum("which targets are whose" in str(warning.message) for warning in caught) == 1
    fit(tmp_path, whole)
    assert difference(module, whole) <= 1e-6
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*targets")
        fit(tmp_path, Halves(), mask=lambda batch: list((batch[1] >= 0).chunk(2)))


class Probed(Plain):
    """A student whose output goes through a head that is no part of it, and which trains from the second epoch on."""

    def __init__(self, by_hand):
        super().__init__()
        self.automatic_optimization = not by_hand
        self.net.requires_grad_(False)
        self.probe = foreign.network(5)[2]

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.probe(F.pad(self.net(batch[0]), (0, 13))), batch[1])
        if self.automatic_optimization:
            return loss
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return None

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.net.requires_grad_(True)
            self.optimizers(use_pl_optimizer=False).add_param_group({"params": list(self.net.parameters())})

    def configure_optimizers(self):
        return torch.optim.SGD(self.probe.parameters(), lr=RATE)


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_student_that_is_frozen_at_first(tmp_path, by_hand):
    module, expected = Probed(by_hand), Probed(by_hand)
    with pytest.warns(UserWarning, match="all parameters of the student, 'net', are frozen") as caught:
        added = fit(tmp_path, module, epochs=2, student="net", temperature=GlobalTemperature())
    assert sum("frozen" in str(warning.message) for warning in caught) == 1
    assert added.temperature.value != 1.0
    optimizer = torch.optim.SGD(expected.probe.parameters(), lr=RATE)
    tau = torch.nn.Parameter(torch.tensor(1.0))
    own = torch.optim.SGD([tau], lr=RATE)
    for epoch in range(2):
        if epoch == 1:
            expected.net.requires_grad_(True)
            optimizer.add_param_group({"params": list(expected.net.parameters())})
        for x, y in batches():
            logits, guide = expected.net(x), foreign.teacher()(x).detach()
            loss = F.cross_entropy(expected.probe(F.pad(logits, (0, 13))), y)
            if epoch == 1:
                softness = 1 + 20 * torch.sigmoid(tau)
                log_q, log_p = (F.log_softmax(z / softness, dim=-1) for z in (logits, guide))
                kl = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
                loss = 0.1 * loss + 0.9 * softness**2 * kl
            optimizer.zero_grad()
            own.zero_grad()
            loss.backward()
            if tau.grad is not None:
                tau.grad.neg_()  # the reversal
            optimizer.step()
            own.step()
    assert difference(module, expected) <= 1e-6
    assert added.temperature.value.item() == pytest.approx(tau.item(), abs=1e-6)


def test_a_student_that_is_always_frozen(tmp_path):
    class Still(Probed):
        def on_train_epoch_start(self):
            pass

    module = Still(by_hand=False)
    with pytest.warns(UserWarning, match="nothing is distilled until some of them are trained"):
        fit(tmp_path, module, epochs=2, student="net")
    assert difference(module.net, Plain().net) == 0


def test_steps_without_the_student(tmp_path):
    class Alternating(Plain):
        def __init__(self, by_hand):
            super().__init__()
            self.automatic_optimization, self.other = not by_hand, nn.Linear(4, 1, bias=False)
            nn.init.ones_(self.other.weight)

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = self.other(x).square().mean() if batch_idx % 2 == 0 else F.cross_entropy(self(x), y)
            if self.automatic_optimization:
                return loss
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            return optimizer.step()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=RATE)

    reference, guide = Alternating(False), foreign.teacher()
    optimizer = reference.configure_optimizers()
    for index, (x, y) in enumerate(batches()):
        logits = reference(x)
        distilled = 0.1 * F.cross_entropy(logits, y) + kd(logits, guide(x).detach())
        optimizer.zero_grad()
        (distilled if index % 2 else reference.other(x).square().mean()).backward()
        optimizer.step()
    for by_hand in (False, True):
        module = Alternating(by_hand)
        fit(tmp_path, module)
        assert difference(module, reference) <= 1e-6


@pytest.mark.parametrize("by_hand", [False, True])
def test_steps_that_fetch_their_batches(tmp_path, by_hand):
    class Fetching(Plain):
        automatic_optimization = not by_hand

        def training_step(self, dataloader_iter):
            (x, y), _, _ = next(dataloader_iter)
            loss = F.cross_entropy(self(x), y)
            if not by_hand:
                return loss
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            return optimizer.step()

    module, reference = Fetching(), Plain()
    settings = {"method": DKD(weight=1.0), "temperature": GlobalTemperature()}  # which reads the target
    fit(tmp_path, module, epochs=2, **copy.deepcopy(settings))
    fit(tmp_path, reference, epochs=2, **copy.deepcopy(settings))
    assert difference(module, reference) <= 1e-6


class Growing(Plain):
    """Replaces its network."""

    def __init__(self, when):
        super().__init__()
        self.when, self.seen = when, []

    def grow(self):
        self.old, self.net = [self.net], foreign.network(9)
        self.optimizers().add_param_group({"params": list(self.net.parameters())})

    def on_train_batch_start(self, batch, batch_idx):
        if self.when == "before" and batch_idx == 2:
            self.grow()

    def training_step(self, batch, batch_idx):
        if self.when == "within" and batch_idx == 2:
            self.grow()
        return F.cross_entropy(self.net(batch[0]), batch[1])


def growing_by_hand(when):
    net, guide = foreign.student(), foreign.teacher()
    optimizer = torch.optim.SGD(net.parameters(), lr=foreign.LEARNING_RATE, momentum=foreign.MOMENTUM)
    for index, (x, y) in enumerate(batches()):
        if index == 2:
            net = foreign.network(9)
            optimizer.add_param_group({"params": list(net.parameters())})
        logits = net(x)
        loss = F.cross_entropy(logits, y)
        if not (when == "within" and index == 2):
            loss = 0.1 * loss + kd(logits, guide(x).detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


@pytest.mark.parametrize("when", ["before", "within"])
def test_networks_that_are_replaced(tmp_path, when):
    module = Growing(when)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, module, student="net")
    told = [w for w in caught if "replaced the student 'net' before it called it" in str(w.message)]
    assert len(told) == (when == "within")
    assert difference(module.net, growing_by_hand(when)) <= 1e-6
    assert all("forward" not in vars(net) for net in (module.net, module.old[0]))


def test_copies_within_a_step(tmp_path):
    class Remembering(Plain):
        def training_step(self, batch, batch_idx):
            if batch_idx == 0 and self.current_epoch == 0:
                self.first = [copy.deepcopy(self.net)]
            return F.cross_entropy(self.net(batch[0]), batch[1])

    module, x = Remembering(), torch.randn(3, 4)
    fit(tmp_path, module, student="net")
    assert torch.equal(module.first[0](x), foreign.student()(x))
    assert difference(module.net, foreign.student()) > 0.01


class Features(nn.Module):
    """In the distiller's place: a loss of features."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, calls, batch):
        self.seen.append(len(calls))
        return sum(call.features["hidden"].square().mean() for call in calls) / len(calls)


@pytest.mark.parametrize("late", [False, True])
def test_teacher_on_the_students_frozen_backbone(tmp_path, late):
    backbone = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).requires_grad_(False)

    class Watching(Plain):
        def __init__(self):
            super().__init__(nn.Linear(1, 1) if late else self.make())

        def make(self):
            return nn.Sequential(backbone, foreign.student())

        def configure_model(self):
            if late:
                self.net = self.make()

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            modes.append(backbone[1].training)
            return loss

    modes, guide = [], nn.Sequential(backbone, foreign.teacher(), nn.Dropout(0.5))
    fit(tmp_path, Watching(), teacher=guide)
    assert modes == [True] * 4
    assert not guide[2].training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_teachers_of_other_types(tmp_path, dtype):
    module, net, guide = Plain(), foreign.student(), foreign.teacher().to(dtype)
    data = DataLoader(TensorDataset(*foreign.samples(count=8)), batch_size=8)
    fit(tmp_path, module, data, teacher=guide)
    ((x, y),) = data
    loss = 0.1 * F.cross_entropy(net(x), y) + kd(net(x), guide(x.to(dtype)).detach().float())
    loss.backward()
    torch.optim.SGD(net.parameters(), lr=foreign.LEARNING_RATE, momentum=foreign.MOMENTUM).step()
    assert difference(module.net, net) <= 1e-6
