import warnings

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ctkd_lightning import (
    ConstantCurriculum,
    CosineCurriculum,
    CurriculumTemperatureCallback,
    FixedTemperature,
    GlobalTemperature,
    InstanceTemperature,
    LinearCurriculum,
)
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import kd_loss
from tests.quiet import quiet_trainer


class Foreign(LightningModule):
    """A module that someone else wrote, with its own distillation loss."""

    def __init__(self, learning_rate=0.1, optimize_temperature=True, **temperatures):
        super().__init__()
        self.net, self.teacher_net = nn.Linear(4, 3), nn.Linear(4, 3).requires_grad_(False)
        self.temperatures = nn.ModuleDict(temperatures)
        self.learning_rate, self.optimize_temperature = learning_rate, optimize_temperature

    def training_step(self, batch):
        x, y = batch
        student, teacher = self.net(x), self.teacher_net(x)
        loss = F.cross_entropy(student, y)
        for temperature in self.temperatures.values():
            loss = loss + kd_loss(student, teacher, temperature(student, teacher))
        return loss

    def configure_optimizers(self):
        parameters = self.parameters() if self.optimize_temperature else self.net.parameters()
        return torch.optim.SGD([p for p in parameters if p.requires_grad], lr=self.learning_rate)


class Unoptimized(Foreign):
    def configure_optimizers(self):
        return None


class Spy(Callback):
    """Write down λ and τ at each step."""

    def __init__(self):
        self.lambdas, self.taus, self.logged = [], [], []

    def on_train_batch_end(self, trainer, module, *args):
        temperature = next(iter(module.temperatures.values()))
        self.lambdas.append(temperature.lambda_.item())

    def on_train_epoch_end(self, trainer, module):
        self.logged.append({k: v.item() for k, v in trainer.callback_metrics.items()})


def data(samples=32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 4, generator=generator)
    return DataLoader(TensorDataset(x, torch.randint(3, (samples,), generator=generator)), batch_size=8)


def fit(tmp_path, module, *callbacks, ckpt_path=None, **settings):
    trainer = quiet_trainer(tmp_path, **{"max_epochs": 3, **settings}, callbacks=list(callbacks))
    trainer.fit(module, data(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_lambda_by_epoch(tmp_path):
    spy = Spy()
    fit(tmp_path, Foreign(t=GlobalTemperature()), CurriculumTemperatureCallback(CosineCurriculum(epochs=2)), spy)
    assert spy.lambdas == pytest.approx([0.0] * 4 + [0.5] * 4 + [1.0] * 4)
    assert [logged["ctkd/lambda"] for logged in spy.logged] == pytest.approx([0.0, 0.5, 1.0])


def test_lambda_by_step(tmp_path):
    spy = Spy()
    callback = CurriculumTemperatureCallback(LinearCurriculum(epochs=2), interval="step")
    fit(tmp_path, Foreign(t=GlobalTemperature()), callback, spy)
    assert spy.lambdas == pytest.approx([0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875] + [1.0] * 4)


def test_default_is_the_papers_curriculum():
    assert CurriculumTemperatureCallback().curriculum == CosineCurriculum(epochs=10, start=0.0, end=1.0)


def test_global_temperature_is_logged(tmp_path):
    module, spy = Foreign(t=GlobalTemperature()), Spy()
    trainer = fit(tmp_path, module, CurriculumTemperatureCallback(ConstantCurriculum()), spy)
    logged = [entry["ctkd/temperature"] for entry in spy.logged]
    assert len(set(logged)) == 3  # it moves
    # the value used in the last step, one update behind the module's
    assert logged[-1] == pytest.approx(module.temperatures["t"](None, None).item(), abs=0.1)
    assert "ctkd/temperature_std" not in trainer.callback_metrics


def test_statistics_of_a_per_sample_temperature(tmp_path):
    temperature, seen = InstanceTemperature(num_classes=3), []
    nn.init.normal_(temperature.out.weight)
    temperature.register_forward_hook(lambda module, args, tau: seen.append(tau.detach()))
    trainer = fit(tmp_path, Foreign(t=temperature), CurriculumTemperatureCallback(ConstantCurriculum()), max_epochs=1)
    taus = torch.cat(seen).double()
    assert len(taus) == 32
    logged = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("ctkd/temperature")}
    assert logged == pytest.approx(
        {
            "ctkd/temperature": taus.mean().item(),
            "ctkd/temperature_std": taus.std(correction=0).item(),
            "ctkd/temperature_min": taus.min().item(),
            "ctkd/temperature_max": taus.max().item(),
        },
        rel=1e-5,
    )


def test_several_temperatures_are_all_driven_and_logged_by_name(tmp_path):
    module = Foreign(a=GlobalTemperature(), b=InstanceTemperature(3), c=FixedTemperature(2.0))
    trainer = fit(tmp_path, module, CurriculumTemperatureCallback(ConstantCurriculum(0.25)), max_epochs=1)
    assert module.temperatures["a"].lambda_ == module.temperatures["b"].lambda_ == 0.25
    names = {name for name in trainer.callback_metrics if name.startswith("ctkd/temperature")}
    assert {"ctkd/temperature/temperatures.a", "ctkd/temperature_std/temperatures.b"} <= names
    assert trainer.callback_metrics["ctkd/temperature/temperatures.c"] == 2.0


def test_lambda_after_resume_within_an_epoch(tmp_path):
    curriculum = CosineCurriculum(epochs=2)

    class Stop(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 6:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    straight = Foreign(t=GlobalTemperature())
    start = {k: v.clone() for k, v in straight.state_dict().items()}
    fit(tmp_path, straight, CurriculumTemperatureCallback(curriculum), Stop())
    resumed, spy = Foreign(t=GlobalTemperature()), Spy()
    resumed.load_state_dict(start)
    fit(tmp_path, resumed, CurriculumTemperatureCallback(curriculum), spy, ckpt_path=tmp_path / "mid.ckpt")
    assert spy.lambdas == pytest.approx([0.5] * (len(spy.lambdas) - 4) + [1.0] * 4)


def test_no_temperature(tmp_path):
    with pytest.raises(UserError, match="Foreign holds no temperature, and the callback has no teacher") as error:
        fit(tmp_path, Foreign(), CurriculumTemperatureCallback())
    code = str(error.value).splitlines()[1:]  # both ways
    assert len(code) == 3
    assert "self.temperature = GlobalTemperature()" in code[0]
    assert "kd_loss(" in code[1]
    assert "CurriculumTemperatureCallback(teacher=" in code[2]


def test_bad_interval():
    with pytest.raises(UserError, match="interval is 'epoch' or 'step', found 'batch'"):
        CurriculumTemperatureCallback(interval="batch")


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "1e-3", True, [0.1]])
@pytest.mark.parametrize("name", ["learning_rate", "weight_decay"])
def test_settings_of_the_optimizer_that_are_no_numbers(name, value):
    with pytest.raises(UserError, match=rf"^{name} must be a finite number (above|from) 0, found .*") as error:
        CurriculumTemperatureCallback(**{name: value})
    assert repr(value) in str(error.value)
    assert "\n" not in str(error.value)


def test_least_settings_of_the_optimizer():
    with pytest.raises(UserError, match="learning_rate must be a finite number above 0, found 0"):
        CurriculumTemperatureCallback(learning_rate=0)
    assert CurriculumTemperatureCallback(weight_decay=0).weight_decay == 0
    assert CurriculumTemperatureCallback(learning_rate=1).learning_rate == 1


@pytest.mark.parametrize(
    ("module", "curriculum", "message"),
    [
        (
            lambda: Foreign(t=GlobalTemperature(initial_value=9.0)),
            ConstantCurriculum(),
            "'temperatures.t' sits at an end",
        ),
        (lambda: Foreign(t=GlobalTemperature(initial_value=-9.0)), ConstantCurriculum(), "of its range: 1.0"),
        (lambda: Foreign(t=GlobalTemperature()), ConstantCurriculum(0.0), "λ never leaves 0 in 3 epoch"),
        (lambda: Unoptimized(t=GlobalTemperature()), ConstantCurriculum(), "temperatures.t.value will not learn"),
    ],
)
def test_warns_once(tmp_path, module, curriculum, message):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, module(), CurriculumTemperatureCallback(curriculum))
    assert sum(message in str(warning.message) for warning in caught) == 1


def test_is_silent_when_all_is_well(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, Foreign(t=GlobalTemperature()), CurriculumTemperatureCallback())
    assert not [w for w in caught if "temperature" in str(w.message) or "λ" in str(w.message)]


def test_lets_go_of_the_module(tmp_path):
    module = Foreign(t=GlobalTemperature())
    callback = CurriculumTemperatureCallback()
    fit(tmp_path, module, callback)
    assert not module.temperatures["t"]._forward_hooks

    class Crash(Callback):
        def on_train_batch_end(self, *args):
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        fit(tmp_path, module, callback, Crash())
    assert not module.temperatures["t"]._forward_hooks
    fit(tmp_path, module, callback)  # and can be used again
