"""Way 1 and way 2 under every condition of a training, against a loop written by hand."""

import copy

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import CombinedLoader
from torch import nn

from ctkd_lightning import CurriculumTemperatureCallback, LinearCurriculum
from tests.callbacks import foreign
from tests.callbacks.foreign import assert_same_state, by_hand, difference, loader, trainer

CURRICULUM = LinearCurriculum(epochs=4, start=0.5)


class EveryStep(Callback):
    """Average the network alone, by torch's own means."""

    def __init__(self, net, averaging):
        self.average = torch.optim.swa_utils.AveragedModel(net, use_buffers=True, **averaging._kwargs)

    def on_train_batch_end(self, trainer, module, *args):
        self.average.update_parameters(module.net)


def callback(**settings):
    defaults = {"teacher": foreign.teacher(), "temperature": foreign.temperature()}
    return CurriculumTemperatureCallback(CURRICULUM, **(defaults | settings))


def two_loaders():
    return CombinedLoader({"a": loader(1), "b": loader(2)})


# trainer settings, settings of the loop by hand
CONDITIONS = {
    "plain": ({}, {}),
    "accumulation": ({"accumulate_grad_batches": 2}, {"accumulate": 2}),
    "clip norm": ({"gradient_clip_val": 0.05}, {"clip_norm": 0.05}),
    "clip value": ({"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}, {"clip_value": 0.01}),
    "bf16-mixed": ({"precision": "bf16-mixed"}, {"autocast": torch.bfloat16}),
    "bf16-true": ({"precision": "bf16-true"}, {"dtype": torch.bfloat16}),
}


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("way", [1, 2])
def test_equals_a_loop_by_hand(tmp_path, way, condition):
    settings, hand = CONDITIONS[condition]
    module, added = (foreign.Distilling(), None) if way == 1 else (foreign.Plain(), callback())
    with torch.random.fork_rng():
        trainer(tmp_path, added or CurriculumTemperatureCallback(CURRICULUM), **settings).fit(module, loader())
    check(module, added, way, by_hand(CURRICULUM, **hand), 1e-6 if "16" not in condition else 2e-3)


@pytest.mark.parametrize("way", [1, 2])
def test_float16_with_loss_scaling(tmp_path, way):
    """On the CPU Lightning would take bfloat16 for "16-mixed": say it to its plugin."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    precision = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    module, added = (foreign.Distilling(), None) if way == 1 else (foreign.Plain(), callback())
    fit = trainer(
        tmp_path,
        added or CurriculumTemperatureCallback(CURRICULUM),
        plugins=[precision],
        gradient_clip_val=0.05,  # of the gradients that are scaled back
    )
    fit.fit(module, loader())
    assert scaler.get_scale() == 1024.0  # no step was skipped
    check(module, added, way, by_hand(CURRICULUM, clip_norm=0.05, autocast=torch.float16), 2e-3)


def check(module, added, way, expected, tolerance=1e-6):
    value = (module.temperature if way == 1 else added.temperature).value
    assert value.dtype == torch.float32
    assert difference(module.net, expected[0]) <= tolerance
    assert value.item() == pytest.approx(expected[1].item(), abs=tolerance)
    assert abs(expected[1].item()) > 0.05  # it moved


def test_the_loop_by_hand_tells_distillation_apart():
    distilled, plain = by_hand(CURRICULUM), by_hand(CURRICULUM, distil=False)
    assert difference(distilled[0], plain[0]) > 0.1


STEPS = {
    (1, "manual"): (foreign.DistillingManual, {}),
    (2, "manual"): (foreign.Manual, {}),
    (2, "forward called directly"): (foreign.Direct, {}),
    (2, "a part of the module"): (foreign.Part, {"student": "net"}),
    (2, "dict output"): (foreign.DictOutput, {}),
}


@pytest.mark.parametrize(("way", "step"), STEPS)
def test_kinds_of_training_steps(tmp_path, way, step):
    make, settings = STEPS[way, step]
    module, added = make(), callback(**settings) if way == 2 else CurriculumTemperatureCallback(CURRICULUM)
    trainer(tmp_path, added).fit(module, loader())
    check(module, added, way, by_hand(CURRICULUM))


@pytest.mark.parametrize("way", [1, 2])
def test_several_dataloaders(tmp_path, way):
    module, added = (foreign.DistillingTwoLoaders(), CurriculumTemperatureCallback(CURRICULUM))
    if way == 2:
        module, added = foreign.TwoLoaders(), callback()
    trainer(tmp_path, added).fit(module, two_loaders())
    check(module, added, way, by_hand(CURRICULUM, seeds=(1, 2)))


@pytest.mark.parametrize("compiled", ["module", "net"])
@pytest.mark.parametrize("way", [1, 2])
def test_compiled(tmp_path, way, compiled):
    torch._dynamo.reset()
    make = foreign.Distilling if way == 1 else foreign.Plain
    added = CurriculumTemperatureCallback(CURRICULUM) if way == 1 else callback()
    module = make(torch.compile(foreign.student(), backend="aot_eager") if compiled == "net" else None)
    compiled_module = torch.compile(module, backend="aot_eager") if compiled == "module" else module
    trainer(tmp_path, added).fit(compiled_module, loader())
    check(module, added, way, by_hand(CURRICULUM))


@pytest.mark.parametrize("name", ["net", "net.2"])
def test_student_inside_a_compiled_net(tmp_path, name):
    torch._dynamo.reset()
    module = foreign.Part(torch.compile(foreign.student(), backend="aot_eager"))
    guide = foreign.teacher() if name == "net" else foreign.teacher()[2]
    added = callback(student=name, teacher=guide)
    eager, eager_added = foreign.Part(), callback(student=name, teacher=copy.deepcopy(guide))
    trainer(tmp_path, added).fit(module, loader())
    trainer(tmp_path, eager_added).fit(eager, loader())
    assert difference(module.net, eager.net) <= 1e-6
    assert added.temperature.value.item() == pytest.approx(eager_added.temperature.value.item(), abs=1e-6)
    assert abs(added.temperature.value.item()) > 0.01


def test_lambda_by_step_compiles_once(tmp_path):
    torch._dynamo.reset()
    counts = torch._dynamo.testing.CompileCounter()
    added = CurriculumTemperatureCallback(CURRICULUM, interval="step")
    trainer(tmp_path, added).fit(torch.compile(foreign.Distilling(), backend=counts), loader())
    assert counts.frame_count == 1


@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("kind", [WeightAveraging, EMAWeightAveraging])
def test_weight_averaging(tmp_path, kind, position):
    module, added, averaging = foreign.Plain(nn.Sequential(nn.BatchNorm1d(4), foreign.student())), callback(), kind()
    fit = trainer(tmp_path, *((averaging, added) if position == "before" else (added, averaging)))
    fit.fit(module, loader(), loader())
    after_fit = copy.deepcopy(module.state_dict())
    reference, ours = foreign.Plain(nn.Sequential(nn.BatchNorm1d(4), foreign.student())), callback()
    averages = EveryStep(reference.net, averaging)
    trainer(tmp_path, ours, averages).fit(reference, loader(), loader())
    assert difference(module.net, averages.average.module) <= 1e-6
    assert added.temperature.value == ours.temperature.value
    fit.validate(module, loader(), verbose=False)  # swaps average and weights again
    fit.validate(module, loader(), verbose=False)
    assert_same_state(module, after_fit)
