"""The module before, during and after: it is the user's."""

import copy
import pickle

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BackboneFinetuning, LearningRateFinder, ModelSummary
from lightning.pytorch.tuner import Tuner
from torch import nn

from ctkd_lightning import CurriculumTemperatureCallback, InstanceTemperature, LinearCurriculum
from tests.callbacks import foreign
from tests.callbacks.foreign import assert_same_state, by_hand, difference, loader, trainer

CURRICULUM = LinearCurriculum(epochs=4, start=0.5)


def callback(**settings):
    defaults = {"teacher": foreign.teacher(), "temperature": foreign.temperature()}
    return CurriculumTemperatureCallback(CURRICULUM, **(defaults | settings))


def shape_of(module):
    """All that the callback could leave behind."""
    attributes = {k: v for k, v in vars(module).items() if callable(v) or k == "_modules"}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()]
    return (
        {k: list(v) if k == "_modules" else v for k, v in attributes.items()},
        hooks,
        [set(vars(m)) for m in module.net.modules()],
    )


def test_module_is_as_it_was_after_fit(tmp_path):
    module = foreign.Plain()
    trainer(tmp_path).fit(module, loader())  # what Lightning itself leaves
    before = shape_of(module)
    trainer(tmp_path, callback()).fit(module, loader(), loader())
    assert shape_of(module) == before


@pytest.mark.parametrize("error", [RuntimeError("crash"), KeyboardInterrupt()], ids=["exception", "Ctrl-C"])
@pytest.mark.parametrize(
    "hook", ["setup", "on_fit_start", "on_train_start", "training_step", "forward", "on_validation_start"]
)
def test_module_is_as_it_was_after_a_crash(tmp_path, hook, error, monkeypatch):
    class Crash(Callback):
        pass

    class Crashing(foreign.Plain):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if hook == "training_step" and armed:
                raise error
            return loss

        def forward(self, x):
            if hook == "forward" and armed and self.training:
                raise error
            return super().forward(x)

    def crash(*args, **kwargs):
        raise error

    armed = False
    module = Crashing()
    trainer(tmp_path).fit(module, loader(), loader())
    before, armed = shape_of(module), True
    if hook not in ("training_step", "forward"):
        setattr(Crash, hook, crash)
    monkeypatch.setattr("signal.signal", lambda *args: None)  # Lightning turns Ctrl-C off for good
    with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)):
        trainer(tmp_path, callback(), Crash()).fit(module, loader(), loader())
    assert shape_of(module) == before


def test_fit_validate_test_fit_on_one_module(tmp_path):
    module, added = foreign.Plain(), callback()
    trainer(tmp_path, added).fit(module, loader(), loader())
    evaluation = trainer(tmp_path, added)
    metrics = evaluation.validate(module, loader(), verbose=False), evaluation.test(module, loader(), verbose=False)
    plain = trainer(tmp_path)
    assert metrics == (plain.validate(module, loader(), verbose=False), plain.test(module, loader(), verbose=False))
    first = added.temperature.value.item()
    trainer(tmp_path, added).fit(module, loader())  # a second training, from where the first ended
    assert added.temperature.value.item() != first
    reference, tau = foreign.Plain(by_hand(CURRICULUM)[0]), callback()
    tau.temperature.value.data.fill_(first)
    trainer(tmp_path, tau).fit(reference, loader())
    assert difference(module, reference) <= 1e-6


def test_validation_test_and_predict_are_untouched(tmp_path):
    seen = []

    class Watching(foreign.Plain):
        def validation_step(self, batch, batch_idx):
            seen.append((vars(self).get("forward"), list(self._modules), len(self.trainer.callbacks)))
            return super().validation_step(batch, batch_idx)

    module, plain = Watching(), foreign.Plain()
    fit = trainer(tmp_path, callback(ce_weight=1.0, kd_weight=0.0), num_sanity_val_steps=0)
    fit.fit(module, loader(), loader())
    reference = trainer(tmp_path, num_sanity_val_steps=0)
    reference.fit(plain, loader(), loader())
    assert all(forward is None and children == ["net"] for forward, children, _ in seen)
    assert fit.callback_metrics["val/loss"] == reference.callback_metrics["val/loss"]
    predictions = [torch.cat(t.predict(m, loader())) for t, m in ((fit, module), (reference, plain))]
    assert torch.equal(*predictions)


def test_user_code_sees_the_module_alone(tmp_path):
    counts = {}

    class Curious(foreign.Plain):
        def configure_optimizers(self):
            counts["configure_optimizers"] = len(list(self.parameters())), list(self._modules)
            return super().configure_optimizers()

        def on_train_start(self):
            counts["on_train_start"] = len(list(self.parameters())), list(self._modules)

    summary = ModelSummary()
    fit = trainer(tmp_path, callback(), summary, enable_model_summary=True)
    fit.fit(Curious(), loader())
    assert counts == dict.fromkeys(["configure_optimizers", "on_train_start"], (4, ["net"]))
    assert sum(p.numel() for g in fit.optimizers[0].param_groups for p in g["params"]) == 4 * 16 + 16 + 16 * 3 + 3


@pytest.mark.parametrize("where", ["tuner", "callback"])
def test_lr_find(tmp_path, where):
    class Tunable(foreign.Plain):
        def __init__(self):
            super().__init__()
            self.learning_rate = foreign.LEARNING_RATE

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=foreign.MOMENTUM)

    module, added = Tunable(), callback()
    if where == "tuner":
        Tuner(fit := trainer(tmp_path, added)).lr_find(module, loader(), num_training=8, update_attr=False)
    else:
        fit = trainer(tmp_path, added, LearningRateFinder(num_training_steps=8, update_attr=False))
    start = {k: v.clone() for k, v in foreign.Plain().state_dict().items()}
    if where == "tuner":
        assert_same_state(module, start)
        assert added.temperature.value == 0
    fit.fit(module, loader())
    expected = by_hand(CURRICULUM)
    assert difference(module.net, expected[0]) <= 1e-6
    assert added.temperature.value.item() == pytest.approx(expected[1].item(), abs=1e-6)


def test_copies_made_during_fit_are_plain(tmp_path):
    class Copy(Callback):
        def on_train_batch_end(self, trainer, module, *args):
            self.copy, self.pickle = copy.deepcopy(module), pickle.dumps(module.training_step)

    taken = Copy()
    module = foreign.Plain()
    trainer(tmp_path, callback(), taken).fit(module, loader())
    batch = foreign.samples()
    assert not torch.equal(taken.copy.training_step(batch, 0), torch.tensor(0.0))
    assert torch.equal(taken.copy.training_step(batch, 0), nn.functional.cross_entropy(taken.copy(batch[0]), batch[1]))
    assert taken.copy.training_step.__self__ is taken.copy
    assert pickle.loads(taken.pickle).__func__ is foreign.Plain.training_step


def test_pickles_before_and_after_fit(tmp_path):
    added = callback()
    again = pickle.loads(pickle.dumps(added))
    module, other = foreign.Plain(), foreign.Plain()
    trainer(tmp_path, added).fit(module, loader())
    trainer(tmp_path, again).fit(other, loader())
    assert_same_state(other, module.state_dict())
    assert pickle.loads(pickle.dumps(added)).temperature.value == added.temperature.value


def test_per_sample_temperature_is_trained_and_kept(tmp_path):
    temperature = InstanceTemperature(3, hidden=8)
    start = copy.deepcopy(temperature.state_dict())
    added = callback(temperature=temperature)
    fit = trainer(tmp_path, added)
    fit.fit(foreign.Plain(), loader())
    assert "ctkd/temperature_std" in fit.callback_metrics
    assert all(not torch.equal(v, start[k]) for k, v in temperature.state_dict().items())
    fit.save_checkpoint(tmp_path / "a.ckpt")
    assert_same_state(temperature, torch.load(tmp_path / "a.ckpt")["callbacks"][added.state_key]["temperature"])


def test_modules_built_late(tmp_path):
    class Late(foreign.Plain):
        def __init__(self):
            super().__init__()
            del self.net

        def configure_model(self):
            if not hasattr(self, "net"):
                self.net = foreign.student()

    module, added = Late(), callback(student="net")
    trainer(tmp_path, added).fit(module, loader())
    assert difference(module.net, by_hand(CURRICULUM)[0]) <= 1e-6


def test_frozen_teacher_stays(tmp_path):
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), foreign.teacher())
    start = copy.deepcopy(net.state_dict())
    added = callback(teacher=net)

    class Flip(Callback):
        def on_train_batch_start(self, trainer, module, *args):
            net.train()

    fit = trainer(tmp_path, added, Flip())
    fit.fit(foreign.Plain(), loader())
    assert_same_state(net, start)
    assert not any(p is q for g in fit.optimizers[0].param_groups for p in g["params"] for q in net.parameters())


def test_logs_the_loss_it_adds(tmp_path):
    fit = trainer(tmp_path, callback(), max_epochs=1, limit_train_batches=1)
    fit.fit(foreign.Plain(), loader())
    x, _ = foreign.samples()
    logits, expected = foreign.student()(x[:8]), foreign.teacher()(x[:8])
    tau = foreign.TAU_INIT + foreign.TAU_RANGE / 2
    log_q, log_p = (torch.log_softmax(z / tau, dim=-1) for z in (logits, expected))
    kd = nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean") * tau**2
    assert fit.callback_metrics["train/kd"].item() == pytest.approx(kd.item(), rel=1e-5)
    assert fit.callback_metrics["ctkd/temperature"].item() == pytest.approx(tau)


def test_temperature_of_the_module_serves_the_callback_too(tmp_path):
    class Owner(foreign.Plain):
        def __init__(self):
            super().__init__()
            self.temperature = foreign.temperature()

    module = Owner()
    fit = trainer(tmp_path, callback(temperature=module.temperature))
    fit.fit(module, loader())
    expected = by_hand(CURRICULUM)
    assert difference(module.net, expected[0]) <= 1e-6
    assert module.temperature.value.item() == pytest.approx(expected[1].item(), abs=1e-6)
    assert "temperature.value" in module.state_dict()
    assert "ctkd/temperature" in fit.callback_metrics  # one, not two


def test_finetuning_callbacks(tmp_path):
    class Finetuned(foreign.Plain):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Linear(4, 4)

        def forward(self, x):
            return self.net(self.backbone(x))

        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.2)

    added, finetuning = callback(), BackboneFinetuning(unfreeze_backbone_at_epoch=2)
    fit = trainer(tmp_path, added, finetuning)
    module = Finetuned()
    start = copy.deepcopy(module.backbone.state_dict())
    fit.fit(module, loader())
    assert len(fit.optimizers[0].param_groups) == 2
    assert all(not torch.equal(value, start[name]) for name, value in module.backbone.state_dict().items())
    assert added.temperature.value != 0


@pytest.mark.parametrize("rate", [None, 0.25])
def test_schedule_that_the_module_steps_itself(tmp_path, rate):
    """One step an epoch, under a rate that is a quarter of the one before: the temperature's steps tell it."""

    class SelfStepped(foreign.Plain):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=foreign.LEARNING_RATE)
            self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.25**epoch)
            return optimizer

        def on_train_epoch_end(self):
            self.schedule.step()

    class Steps(Callback):
        def __init__(self):
            self.gradients, self.values = [], [0.0]

        def on_before_optimizer_step(self, *args):
            self.gradients.append(added.temperature.value.grad.item())

        def on_train_batch_end(self, *args):
            self.values.append(added.temperature.value.item())

    added, steps = callback(learning_rate=rate), Steps()
    fit = trainer(tmp_path, added, steps, limit_train_batches=1)
    fit.fit(SelfStepped(), loader())
    moved = [before - after for before, after in zip(steps.values, steps.values[1:], strict=False)]
    rates = [(rate or foreign.LEARNING_RATE) * 0.25**epoch for epoch in range(foreign.EPOCHS)]
    assert moved == pytest.approx([r * g for r, g in zip(rates, steps.gradients, strict=True)], abs=1e-7)
    assert [group["lr"] for group in fit.optimizers[0].param_groups] == [foreign.LEARNING_RATE * 0.25**3]


def test_a_loss_that_is_thrown_away_by_hand(tmp_path):
    """As where the gradients are looked at after each step."""

    class Looking(foreign.Manual):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            self.manual_backward(nn.functional.cross_entropy(self(batch[0]), batch[1]))
            self.optimizers().zero_grad()

    added, once = callback(), callback()
    module, reference = Looking(), foreign.Manual()
    trainer(tmp_path, once).fit(reference, loader())
    trainer(tmp_path, added).fit(module, loader())
    assert_same_state(module, reference.state_dict())
    assert added.temperature.value == once.temperature.value
