"""The code in docs/fusion.md runs, on small networks in the place of the reader's."""

import re
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.quiet import quiet_trainer

DOCS = Path(__file__).resolve().parents[1] / "docs" / "fusion.md"
MINIMAL, FROZEN = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)


def run(code, **names):
    exec(compile(code, str(DOCS), "exec"), names)
    return names


def test_two_lines():
    trainers = []
    z1, z2 = torch.randn(2, 8, 10)
    given = {"z1": z1, "z2": z2, "target": torch.arange(8), "self": SimpleNamespace()}
    found = run(MINIMAL, **given, Trainer=lambda **settings: trainers.append(settings))
    assert found["loss"].requires_grad
    torch.testing.assert_close(found["log_probabilities"].exp().sum(-1), torch.ones(8))
    assert set(found["taus"]) == {"image", "audio"}
    assert isinstance(trainers[0]["callbacks"][0], found["CurriculumTemperatureCallback"])


def test_over_networks_that_exist(tmp_path):
    nets = {f"net_{axis}": nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 7)) for axis in "xyz"}
    samples = [{**{axis: torch.randn(4) for axis in "xyz"}, "target": torch.tensor(i % 7)} for i in range(16)]
    before = {name: net[0].weight.clone() for name, net in nets.items()}

    def one_epoch(max_epochs):
        assert max_epochs > 1
        return quiet_trainer(tmp_path, max_epochs=1)

    found = run(FROZEN, **nets, loader=DataLoader(samples, batch_size=8), Trainer=one_epoch)
    assert all(torch.equal(net[0].weight, before[name]) for name, net in nets.items())
    assert found["fusion"].temperature.value.abs().sum() > 0
