"""The same training through the module, the callback and the engine in a plain loop gives the same weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.utils import parameters_to_vector
from torch.utils.data import DataLoader, TensorDataset

from ctkd_lightning import (
    ConstantCurriculum,
    CurriculumTemperatureCallback,
    Distillation,
    DistillationModule,
    GlobalTemperature,
    LinearCurriculum,
    TemperatureFusion,
)
from ctkd_lightning.methods import (
    AB,
    AT,
    CC,
    CRD,
    DIST,
    DKD,
    FSP,
    FT,
    KD,
    KDSVD,
    NST,
    OFD,
    PKT,
    RKD,
    SP,
    SRRL,
    VID,
    FitNet,
    ReviewKD,
)
from ctkd_lightning.temperature import LSKDTemperature
from tests.quiet import quiet_trainer

STEPS, BATCH, EPOCHS = 5, 6, 4
SETTINGS = {"lr": 0.2, "momentum": 0.9}
CURRICULUM = LinearCurriculum(epochs=4, start=0.25)


def network(seed, width=8):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 5)).double()


def samples(masked):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(STEPS * BATCH, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(5, (len(x),), generator=generator)
    if masked:
        y[torch.rand(len(x), generator=generator) < 0.3] = -100
    return x, y


def loader(masked):
    return DataLoader(TensorDataset(*samples(masked)), batch_size=BATCH)


METHODS = {
    "kd": lambda: KD(),
    "dkd": lambda: DKD(weight=0.5, beta=2.0, warmup_epochs=3),
    "kd and dist": lambda: {"kd": KD(), "dist": DIST(weight=0.3)},
}
TEMPERATURES = {
    "global": lambda: GlobalTemperature(1.0, 4.0, initial_value=0.0).double(),
    "standardized": lambda: LSKDTemperature(GlobalTemperature(1.0, 4.0, initial_value=0.0)).double(),
}


class Plain(LightningModule):
    """Knows nothing of distillation."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), **SETTINGS)


def trainer(tmp_path, *callbacks, **settings):
    return quiet_trainer(tmp_path, callbacks=list(callbacks), **{"max_epochs": EPOCHS, **settings})


def through_the_module(tmp_path, method, temperature, masked, teacher=None, teacher_fusion=None, **settings):
    module = DistillationModule(
        teacher or network(2, 16),
        network(1),
        method,
        temperature,
        curriculum=CURRICULUM,
        optimizer=lambda p: torch.optim.SGD(p, **SETTINGS),
        teacher_fusion=teacher_fusion,
    )
    trainer(tmp_path, **settings).fit(module, loader(masked))
    return module.student


def through_the_callback(tmp_path, method, temperature, masked, teacher=None, teacher_fusion=None, **settings):
    added = CurriculumTemperatureCallback(
        CURRICULUM,
        teacher or network(2, 16),
        method=method,
        temperature=temperature,
        teacher_fusion=teacher_fusion,
    )
    module = Plain(network(1))
    trainer(tmp_path, added, **settings).fit(module, loader(masked))
    return module.net


def through_the_engine(
    tmp_path, method, temperature, masked, accumulate_grad_batches=1, teacher=None, teacher_fusion=None
):
    distillation = Distillation(
        network(1),
        teacher or network(2, 16),
        method,
        temperature,
        curriculum=CURRICULUM,
        teacher_fusion=teacher_fusion,
    )
    optimizer = torch.optim.SGD(distillation.parameters(), **SETTINGS)
    for epoch in range(EPOCHS):
        distillation.progress(epoch, epoch / EPOCHS)
        for step, (x, y) in enumerate(loader(masked), start=1):
            (distillation(x, target=y)["loss"] / accumulate_grad_batches).backward()
            if step % accumulate_grad_batches == 0 or step == STEPS:
                optimizer.step()
                optimizer.zero_grad()
    return distillation.student


def values(network, temperature):
    return torch.cat([p.detach().flatten() for p in (*network.parameters(), *temperature.parameters())])


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("method", METHODS)
def test_the_same_weights(tmp_path, method, temperature, masked, accumulate):
    settings = {"accumulate_grad_batches": accumulate} if accumulate > 1 else {}
    found = []
    for way in (through_the_module, through_the_callback, through_the_engine):
        tau = TEMPERATURES[temperature]()
        net = way(tmp_path, METHODS[method](), tau, masked, **settings)
        found.append(values(net, tau))
    start = values(network(1), TEMPERATURES[temperature]())
    moved = (found[0] - start).abs()
    assert moved.mean() > 0.01
    assert moved[-1] > 0  # the temperature
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found[2], found[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["fixed", "global", "instance"])
def test_the_same_weights_of_several_teachers(tmp_path, kind):
    found, moved = [], None
    for way in (through_the_module, through_the_callback, through_the_engine):
        torch.manual_seed(7)
        fusion = TemperatureFusion(None, ["a", "b"], kind, normalize=True).double()
        start = parameters_to_vector([*fusion.parameters(), torch.zeros(1)])
        tau, given = TEMPERATURES["global"](), {"a": network(2, 16), "b": network(3, 16)}
        net = way(tmp_path, KD(), tau, True, teacher=given, teacher_fusion=fusion)
        moved = parameters_to_vector([*fusion.parameters(), torch.zeros(1)]) - start
        found.append(torch.cat([values(net, tau), moved]))
    assert (moved.abs().max() > 1e-3) == (kind != "fixed")
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found[2], found[0], rtol=1e-10, atol=1e-12)


class Convolutions(nn.Module):
    """A small network of two stages, as somebody else might write it."""

    def __init__(self, seed, width):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU())
            self.second = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(inplace=True))
            self.head = nn.Linear(2 * width, 5)

    def forward(self, x):
        return self.head(self.second(self.first(x)).mean(dim=(2, 3)))


FEATURES = {
    "ab": AB,
    "at": AT,
    "cc": lambda: CC(dim=4),
    "crd": lambda: CRD(dim=4, negatives=8),
    "fitnet": FitNet,
    "fsp": FSP,
    "ft": FT,
    "kdsvd": KDSVD,
    "nst": NST,
    "ofd": OFD,
    "pkt": PKT,
    "reviewkd": ReviewKD,
    "rkd": RKD,
    "sp": SP,
    "srrl": SRRL,
    "vid": VID,
}
SAME_WIDTHS = ("fsp", "kdsvd")
LAYERS = {"stage1": "first", "stage2": "second"}


class Images(Plain):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])


def images():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 3, 8, 8, generator=generator)
    return DataLoader(TensorDataset(x, torch.randint(5, (24,), generator=generator), torch.arange(24)), batch_size=6)


@pytest.mark.parametrize("name", FEATURES)
def test_methods_of_features_in_the_callback_equal_the_module(tmp_path, name):
    width = 4 if name in SAME_WIDTHS else 6
    torch.manual_seed(5)
    module = DistillationModule(
        Convolutions(2, width),
        Convolutions(1, 4),
        {"kd": KD(), name: FEATURES[name]()},
        example_image=next(iter(images()))[0],
        num_samples=24,
        student_layers=LAYERS,
        teacher_layers=LAYERS,
        curriculum=ConstantCurriculum(0.5),
        optimizer=lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    )
    made = copy.deepcopy(module.methods[name].state_dict())
    trainer(tmp_path, max_epochs=2).fit(module, images())

    class Given(type(FEATURES[name]())):
        """Starts from the module's parts."""

        def build(self, student, teacher):
            super().build(student, teacher)
            self.load_state_dict(made)

    method = FEATURES[name]()
    method.__class__ = Given
    added = CurriculumTemperatureCallback(
        ConstantCurriculum(0.5),
        Convolutions(2, width),
        "net",
        method={"kd": KD(), name: method},
        target=lambda batch: batch[1],
        student_layers=LAYERS,
        teacher_layers=LAYERS,
    )
    foreign = Images(Convolutions(1, 4))
    foreign.configure_optimizers = lambda: torch.optim.SGD(foreign.parameters(), lr=1e-3, momentum=0.9)
    run = trainer(tmp_path, added, max_epochs=2)
    run.fit(foreign, images())
    assert {f"train/{name}", "train/kd"} <= set(run.callback_metrics)
    torch.testing.assert_close(values(foreign.net, added.methods), values(module.student, module.methods))
    assert not any(layer._forward_hooks for layer in foreign.net.modules())
