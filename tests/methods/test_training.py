"""Every method in training: fit, stop and resume; driven by the list in settings.py."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ctkd_lightning import CurriculumTemperatureCallback, DistillationModule, InstanceTemperature
from ctkd_lightning.curriculum import ConstantCurriculum
from tests.methods.setting import NUM_SAMPLES
from tests.methods.settings import SETTINGS, TARGET
from tests.quiet import quiet_trainer

CLASSES = 5
IMAGES = torch.randn(NUM_SAMPLES, 3, 16, 16, generator=torch.Generator().manual_seed(5))


class Network(nn.Module):
    """Three stages, without batch normalisation: a half batch's loss does not depend on the other half."""

    feature_layers = {"stage1": "1", "stage2": "3", "stage3": "5", "pooled": "flatten"}  # noqa: RUF012
    classifier_layer = "fc"

    def __init__(self, widths=(4, 5, 6)):
        super().__init__()
        for i, (before, after) in enumerate(zip((3, *widths), widths, strict=False)):
            self.add_module(str(2 * i), nn.Conv2d(before, after, 3, stride=min(i + 1, 2), padding=1))
            self.add_module(str(2 * i + 1), nn.ReLU())
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(widths[-1], CLASSES)

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


def distillation(name):
    torch.manual_seed(0)
    setting = SETTINGS[name]
    module = DistillationModule(
        Network((4, 5, 6) if setting.same_widths else (6, 7, 8)),
        Network(),
        {name: setting.make()},
        InstanceTemperature(CLASSES),
        example_image=IMAGES[:2],
        num_samples=NUM_SAMPLES,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    )
    module.temperature.lambda_.fill_(1.0)
    return module


def fit(name, epochs, tmp_path, checkpoint=None):
    module = distillation(name)
    callback = CurriculumTemperatureCallback(ConstantCurriculum())
    trainer = quiet_trainer(tmp_path, max_epochs=epochs, callbacks=[callback])
    data = DataLoader(TensorDataset(IMAGES, TARGET, torch.arange(NUM_SAMPLES)), batch_size=20)
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return module, trainer


@pytest.mark.parametrize("name", SETTINGS)
def test_fit_stop_and_resume(name, tmp_path):
    start = {k: v.clone() for k, v in distillation(name).state_dict().items()}
    straight, trainer = fit(name, 2, tmp_path)
    assert torch.isfinite(trainer.callback_metrics[f"train/{name}"])
    assert not torch.equal(straight.student.fc.weight, start["student.fc.weight"])

    _, stopped = fit(name, 1, tmp_path)
    stopped.save_checkpoint(tmp_path / "stopped.ckpt")
    resumed, _ = fit(name, 2, tmp_path, checkpoint=tmp_path / "stopped.ckpt")
    assert straight.state_dict().keys() == resumed.state_dict().keys()
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


@pytest.mark.parametrize("name", SETTINGS)
def test_an_empty_batch_leaves_the_networks_as_they_are(name):
    module = distillation(name)
    optimizer = module.configure_optimizers()
    before = {k: v.clone() for k, v in module.state_dict().items() if not k.endswith("draws")}
    losses = module.losses(IMAGES[:0], (IMAGES[:0], TARGET[:0], torch.arange(0)))
    assert all(loss == 0 for loss in losses.values())
    losses["loss"].backward()
    optimizer.step()
    after = module.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    losses = module.losses(IMAGES[:4], (IMAGES[:4], TARGET[:4], torch.arange(4)))
    assert all(loss.isfinite() for loss in losses.values())
