"""Checkpoints: those of the plain module, and an exact continuation."""

import copy

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR
from torch.utils.data import DataLoader, TensorDataset

from ctkd_lightning import CurriculumTemperatureCallback, FixedTemperature, InstanceTemperature, LinearCurriculum
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import CC, CRD, KD, VID, FitNet
from tests.callbacks import foreign
from tests.callbacks.foreign import assert_same_state, loader, trainer

CURRICULUM = LinearCurriculum(epochs=4, start=0.5)
KEY = "CurriculumTemperatureCallback"

SCHEDULES = {
    "none": None,
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o: schedulers.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [2, 7], 0.5),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, 0.5, 5),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.5, total_iters=6),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 12),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.1, 0.5, step_size_up=3),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.5, total_steps=20),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 5),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 14),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=0, factor=0.5),
    "SWALR": lambda o: SWALR(o, 0.1, anneal_epochs=5),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.5, total_iters=3), schedulers.ExponentialLR(o, 0.9)], [3]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.5, 4), schedulers.ExponentialLR(o, 0.95)]
    ),
}


class Scheduled(foreign.Plain):
    """Two groups, and any of torch's schedulers at each step."""

    def __init__(self, schedule="none", optimizer=torch.optim.SGD, **settings):
        super().__init__()
        self.schedule, self.optimizer, self.settings = schedule, optimizer, settings or {"lr": 0.5, "momentum": 0.9}

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss.detach())
        return loss

    def configure_optimizers(self):
        weights = [p for p in self.parameters() if p.ndim > 1]
        biases = [p for p in self.parameters() if p.ndim == 1]
        optimizer = self.optimizer([{"params": weights}, {"params": biases, "weight_decay": 0.0}], **self.settings)
        if SCHEDULES[self.schedule] is None:
            return optimizer
        schedule = {"scheduler": SCHEDULES[self.schedule](optimizer), "interval": "step", "monitor": "loss"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class SaveAt(Callback):
    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def callback(**settings):
    defaults = {"teacher": foreign.teacher(), "temperature": foreign.temperature()}
    return CurriculumTemperatureCallback(CURRICULUM, **(defaults | settings))


def one_batch_again_and_again():
    """A resumed epoch starts its loader anew: with equal batches that makes no difference."""
    x, y = foreign.samples(count=8)
    return DataLoader(TensorDataset(x.repeat(4, 1), y.repeat(4)), batch_size=8)


def layout(checkpoint):
    """What must agree for a checkpoint to load: keys, shapes and lengths."""

    def of(value):
        if isinstance(value, torch.Tensor):
            return tuple(value.shape)
        if isinstance(value, dict):
            return {k: of(v) for k, v in value.items()}
        if isinstance(value, list):
            return [of(v) for v in value]
        return type(value).__name__

    return of({k: checkpoint[k] for k in ("state_dict", "optimizer_states", "lr_schedulers")})


@pytest.mark.parametrize("own", [{}, {"learning_rate": 0.2, "weight_decay": 0.0}], ids=["shared", "own"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_scheduler(tmp_path, schedule, own):
    straight, added = Scheduled(schedule), callback(**own)
    trainer(tmp_path, added, SaveAt(6, tmp_path / "ours.ckpt")).fit(straight, one_batch_again_and_again())
    plain = Scheduled(schedule)
    trainer(tmp_path, SaveAt(6, tmp_path / "plain.ckpt")).fit(plain, one_batch_again_and_again())

    # the checkpoint is that of the plain module
    files = [torch.load(tmp_path / name, weights_only=True) for name in ("ours.ckpt", "plain.ckpt")]
    assert layout(files[0]) == layout(files[1])
    trainer(tmp_path).fit(Scheduled(schedule), loader(), ckpt_path=tmp_path / "ours.ckpt", weights_only=True)

    # and a run with the callback goes on exactly, from its own
    resumed, added_again = Scheduled(schedule), callback(**own)
    fit = trainer(tmp_path, added_again)
    fit.fit(resumed, one_batch_again_and_again(), ckpt_path=tmp_path / "ours.ckpt", weights_only=True)
    if schedule != "ReduceLROnPlateau":  # Lightning steps it after the checkpoint, so that no resume is exact
        assert_same_state(resumed, straight.state_dict())
        assert added_again.temperature.value == added.temperature.value
    # and, with a temperature at its start, from that of the plain module
    adopted, late = Scheduled(schedule), callback(**own)
    trainer(tmp_path, late).fit(adopted, loader(), ckpt_path=tmp_path / "plain.ckpt", weights_only=True)
    assert late.temperature.value != 0


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("own", [{}, {"learning_rate": 0.2}], ids=["shared", "own rate"])
@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name not in ("none", "ReduceLROnPlateau")])
def test_schedules_move_both_alike(tmp_path, schedule, own, optimizer):
    """Against torch's optimizer and scheduler on the temperature alone, under the gradients that it had."""
    kind = {"SGD": {"lr": 0.5, "momentum": 0.9}, "AdamW": {"lr": 0.5}}[optimizer]
    make = getattr(torch.optim, optimizer)
    gradients, rates = [], []

    class Spy(Callback):
        def on_before_optimizer_step(self, trainer, *args):
            gradients.append(added.temperature.value.grad.clone())

        def on_train_batch_end(self, trainer, *args):
            rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    added = callback(**own)
    trainer(tmp_path, added, Spy()).fit(Scheduled(schedule, make, **kind), loader())

    value, weight = (torch.nn.Parameter(torch.zeros(())) for _ in range(2))
    alone = make([{"params": [value]}, {"params": [weight]}], **kind)
    schedule, ratio, expected = SCHEDULES[schedule](alone), own.get("learning_rate", 0.5) / 0.5, []
    for gradient in gradients:
        value.grad = gradient
        rate = alone.param_groups[0]["lr"]
        alone.param_groups[0]["lr"] = rate * ratio
        alone.step()
        alone.param_groups[0]["lr"] = rate
        schedule.step()
        expected.append([group["lr"] for group in alone.param_groups])
    assert added.temperature.value.item() == pytest.approx(value.item(), rel=1e-6, abs=1e-7)
    assert len(gradients) == 12
    assert rates == expected  # the student's are untouched


@pytest.mark.parametrize("step", [4, 6], ids=["boundary", "within an epoch"])
@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": torch.optim.SGD, "lr": 0.5, "momentum": 0.9},
        {"optimizer": torch.optim.AdamW, "lr": 0.05},
        {"optimizer": torch.optim.Adam, "lr": 0.05, "amsgrad": True, "foreach": True},
    ],
    ids=["SGD", "AdamW", "Adam"],
)
def test_resume_is_exact(tmp_path, settings, interval, step):
    def run(module, **fit_settings):
        added = callback(interval=interval)
        trainer(tmp_path, added, SaveAt(step, tmp_path / f"{step}.ckpt")).fit(
            module, one_batch_again_and_again(), **fit_settings
        )
        return module, added.temperature

    straight, tau = run(Scheduled(**settings))
    resumed, tau_resumed = run(Scheduled(**settings), ckpt_path=tmp_path / f"{step}.ckpt", weights_only=True)
    assert_same_state(resumed, straight.state_dict())
    assert tau_resumed.value == tau.value
    assert tau_resumed.lambda_ == tau.lambda_


def test_resume_of_a_module_that_distils(tmp_path):
    straight = foreign.Distilling()
    added = CurriculumTemperatureCallback(CURRICULUM)
    trainer(tmp_path, added, SaveAt(6, tmp_path / "ours.ckpt")).fit(straight, one_batch_again_and_again())
    resumed = foreign.Distilling()
    fit = trainer(tmp_path, CurriculumTemperatureCallback(CURRICULUM))
    fit.fit(resumed, one_batch_again_and_again(), ckpt_path=tmp_path / "ours.ckpt", weights_only=True)
    assert_same_state(resumed, straight.state_dict())
    # its optimizer never knew the temperature, and the checkpoint keeps to that
    trainer(tmp_path).fit(foreign.Distilling(), loader(), ckpt_path=tmp_path / "ours.ckpt", weights_only=True)


def test_module_loads_strictly_both_ways(tmp_path):
    module, added = foreign.Plain(), callback()
    fit = trainer(tmp_path, added)
    fit.fit(module, loader())
    fit.save_checkpoint(tmp_path / "ours.ckpt")  # after the training: the optimizer's part is the plain module's too
    trainer(tmp_path, max_epochs=4).fit(foreign.Plain(), loader(), ckpt_path=tmp_path / "ours.ckpt", weights_only=True)
    assert_same_state(
        foreign.Plain.load_from_checkpoint(tmp_path / "ours.ckpt", weights_only=True), module.state_dict()
    )
    again = callback()
    trainer(tmp_path, again).validate(foreign.Plain(), loader(), ckpt_path=tmp_path / "ours.ckpt", weights_only=True)
    assert again.temperature.value == added.temperature.value
    assert list(torch.load(tmp_path / "ours.ckpt", weights_only=True)["state_dict"]) == list(
        foreign.Plain().state_dict()
    )


def test_another_temperature_in_the_checkpoint(tmp_path):
    fit = trainer(tmp_path, callback(temperature=FixedTemperature(2.0)))
    fit.fit(foreign.Plain(), loader())
    fit.save_checkpoint(tmp_path / "fixed.ckpt")
    with pytest.raises(UserError, match=r"another than this GlobalTemperature \(entries: none\): resume with"):
        trainer(tmp_path, callback()).fit(
            foreign.Plain(), loader(), ckpt_path=tmp_path / "fixed.ckpt", weights_only=True
        )
    assert KEY in torch.load(tmp_path / "fixed.ckpt", weights_only=True)["callbacks"]


def test_two_optimizers_each_keep_their_layout(tmp_path):
    class Two(foreign.Manual):
        def training_step(self, batch, batch_idx):
            first, second = self.optimizers()
            for optimizer in (first, second):
                optimizer.zero_grad()
            self.manual_backward(torch.nn.functional.cross_entropy(self(batch[0]), batch[1]))
            first.step()
            second.step()

        def configure_optimizers(self):
            settings = {"lr": foreign.LEARNING_RATE, "momentum": foreign.MOMENTUM}
            return [torch.optim.SGD(self.net[i].parameters(), **settings) for i in (0, 2)]

    module, added = Two(), callback()
    trainer(tmp_path, added, SaveAt(24, tmp_path / "two.ckpt")).fit(module, loader())
    net, value = foreign.by_hand(CURRICULUM)
    assert foreign.difference(module.net, net) <= 1e-6
    assert added.temperature.value.item() == pytest.approx(value.item(), abs=1e-6)
    trainer(tmp_path, max_epochs=4).fit(Two(), loader(), ckpt_path=tmp_path / "two.ckpt", weights_only=True)
    assert copy.deepcopy(module).training_step.__func__ is Two.training_step


def test_checkpoint_of_version_0_1(tmp_path):
    """It kept the state by the optimizer's number, beside the temperature's."""
    straight, added = Scheduled(), callback()
    trainer(tmp_path, added, SaveAt(6, tmp_path / "ours.ckpt")).fit(straight, one_batch_again_and_again())
    checkpoint = torch.load(tmp_path / "ours.ckpt", weights_only=True)
    own = checkpoint["callbacks"][KEY]
    own["optimizers"] = {"0": {"state": {"temperature.value": own.pop("optimizer")["temperature.value"]["state"]}}}
    torch.save(checkpoint, tmp_path / "old.ckpt")
    resumed, again = Scheduled(), callback()
    fit = trainer(tmp_path, again)
    fit.fit(resumed, one_batch_again_and_again(), ckpt_path=tmp_path / "old.ckpt", weights_only=True)
    assert_same_state(resumed, straight.state_dict())
    assert again.temperature.value == added.temperature.value


@pytest.mark.parametrize("own", [{}, {"learning_rate": 0.05}], ids=["shared", "own rate"])
def test_groups_that_the_module_adds_are_in_the_checkpoint(tmp_path, own):
    class Unfreezing(foreign.Plain):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net[2].parameters(), lr=0.2, momentum=0.8)

        def on_train_epoch_start(self):
            if self.current_epoch == 2:
                self.optimizers().add_param_group({"params": list(self.net[0].parameters()), "lr": 0.03})

    found = []
    for callbacks in ([], [callback(**own)]):
        fit = trainer(tmp_path, *callbacks)
        fit.fit(Unfreezing(), loader())
        fit.save_checkpoint(tmp_path / "groups.ckpt")
        found.append(layout(torch.load(tmp_path / "groups.ckpt", weights_only=True)))
    assert found[0] == found[1]
    assert len(found[0]["optimizer_states"][0]["param_groups"]) == 2


class Convolutions(nn.Module):
    def __init__(self, seed, width):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
            self.second = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU())
            self.classifier = nn.Linear(2 * width, 3)

    def forward(self, x):
        return self.classifier(self.second(self.first(x)).mean(dim=(2, 3)))


class Images(foreign.Plain):
    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]).float(), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


LAYERS = {"stage1": "first", "stage2": "second"}
ADAPTED = {"fitnet": FitNet, "vid": VID, "cc": lambda: CC(dim=4), "crd": lambda: CRD(dim=4)}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "16-true", "64-true"])
@pytest.mark.parametrize("name", ADAPTED)
def test_resume_with_what_methods_learn(tmp_path, name, precision):
    def run(ckpt_path=None):
        torch.manual_seed(3)
        layers = {"student_layers": LAYERS, "teacher_layers": LAYERS} if name in ("fitnet", "vid") else {}
        method = {"kd": KD(), name: ADAPTED[name]()}
        added = CurriculumTemperatureCallback(CURRICULUM, Convolutions(2, 6), "net", method=method, **layers)
        module = Images(Convolutions(1, 4))
        if precision == "64-true":
            module.double()  # Lightning loads a checkpoint before it converts
        x = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(1))
        y, index = torch.arange(8) % 3, torch.arange(8)
        data = DataLoader(TensorDataset(x.repeat(4, 1, 1, 1), y.repeat(4), index.repeat(4)), batch_size=8)
        fit = trainer(tmp_path, added, SaveAt(6, tmp_path / "ours.ckpt"), precision=precision)
        fit.fit(module, data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
        return module, added

    (straight, first), (resumed, again) = run(), run(tmp_path / "ours.ckpt")
    assert_same_state(resumed, straight.state_dict())
    assert_same_state(again.methods, first.methods.state_dict())
    assert_same_state(again.temperature, first.temperature.state_dict())
    assert all(p.isfinite().all() for p in first.methods.parameters())
    start = torch.load(tmp_path / "ours.ckpt", weights_only=True)["callbacks"][KEY]
    moved = [key for key, value in first.methods.state_dict().items() if not torch.equal(value, start["method"][key])]
    assert moved
    assert first.temperature.value != start["temperature"]["value"]


class Position:
    """Batches, from where a checkpoint says."""

    def __init__(self):
        self.batches, self.next = list(loader()), 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for place in range(self.next % len(self), len(self)):
            self.next = place + 1
            yield self.batches[place]

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


def test_within_an_epoch(tmp_path):
    """What is logged of the epoch is that of all its steps, and dropout draws what it would have drawn."""

    def fit(resume=None):
        torch.manual_seed(0 if resume is None else 5)
        net = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 3))
        module = foreign.Plain(net)
        plugin = callback(temperature=InstanceTemperature(num_classes=3))
        callbacks = [plugin, SaveAt(6, tmp_path / "within.ckpt")]
        own = trainer(tmp_path, *callbacks, max_epochs=2)
        own.fit(module, Position(), ckpt_path=resume, weights_only=True)
        logged = {name: value for name, value in own.callback_metrics.items() if name.startswith(("ctkd/", "train/"))}
        return module, plugin, logged

    whole, resumed = fit(), fit(tmp_path / "within.ckpt")
    assert {"train/kd", "ctkd/temperature", "ctkd/temperature_std"} <= whole[2].keys()
    assert whole[2] == resumed[2]
    assert_same_state(resumed[0], whole[0].state_dict())
    assert_same_state(resumed[1].temperature, whole[1].temperature.state_dict())
