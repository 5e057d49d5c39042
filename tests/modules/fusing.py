"""Small data, encoders and modules of a fusion, and the training loop by hand that the module must equal."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ctkd_lightning import FusionModule, LinearCurriculum, ModalityCorruption, TemperatureFusion
from ctkd_lightning.data import Samples
from ctkd_lightning.data._loading.multimodal import MultimodalLoader
from ctkd_lightning.data._loading.sampler import EpochSampler
from tests.quiet import quiet_trainer

NAMES = ["image", "audio"]
WIDTHS = {"image": 6, "audio": 8}
LEARNING_RATE, MOMENTUM, EPOCHS, CLASSES = 0.2, 0.9, 3, 3
CURRICULUM = LinearCurriculum(epochs=4, start=0.5)


def samples(count=32):
    generator = torch.Generator().manual_seed(1)
    target = torch.arange(count) % CLASSES
    prototypes = 2 * torch.randn(CLASSES, 2, 9, generator=generator)
    image = prototypes[target] + torch.randn(count, 2, 9, generator=generator)
    return Samples({"image": image, "audio": torch.randn(count, 5, generator=generator)}, target)


def loader(count=32, batch_size=8, **settings):
    sampler = EpochSampler(torch.arange(count), batch_size, seed=1, **settings)
    return MultimodalLoader(samples(count), sampler, torch.device("cpu"))


def encoders():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        image = nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3))
        return {"image": image, "audio": nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))}


def fusion(kind="global", **settings):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return TemperatureFusion(CLASSES, NAMES, kind, **settings)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=0.01)


def corruption():
    return ModalityCorruption(["noise", "drop", "stuck"], share=0.5)


def module(kind="global", of_fusion=None, **settings):
    return FusionModule(encoders(), fusion(kind, **(of_fusion or {})), optimizer=sgd, **settings)


def trainer(folder, *callbacks, **settings):
    return quiet_trainer(folder, **({"max_epochs": EPOCHS, "callbacks": list(callbacks)} | settings))


def by_hand(epochs=EPOCHS, weight=1.0):
    """Train with a global τ a modality: encoders and τ, in PyTorch alone."""
    nets, p = nn.ModuleDict(encoders()), torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD(
        [{"params": nets.parameters(), "weight_decay": 0.01}, {"params": [p]}], lr=LEARNING_RATE, momentum=MOMENTUM
    )
    low, high = math.log(0.1), math.log(100.0)
    data = loader()
    for epoch in range(epochs):
        for batch in data:
            tau = (low + (high - low) * torch.sigmoid(5 * p + math.log(1 / 2))).exp()  # 1 is a third of the way up
            scores = {name: nets[name](batch[name]) for name in NAMES}
            fused = sum(F.log_softmax(scores[name] / tau[m], -1) for m, name in enumerate(NAMES))
            own = sum(F.cross_entropy(z, batch["target"]) for z in scores.values())
            optimizer.zero_grad()
            (F.cross_entropy(fused, batch["target"]) + weight * own).backward()
            p.grad *= 0.5 + 0.5 * epoch / 4
            optimizer.step()
    return nets, p.detach()


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items() if not name.startswith("metrics")}


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], **tolerance)
