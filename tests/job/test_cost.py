import time

import pytest
import torch
from torch import nn
from torchvision import models

from ctkd_lightning.job.cost import cost, seconds_per_call
from ctkd_lightning.models import save_weights


@pytest.mark.parametrize(
    ("name", "published", "parameters"),
    [  # torchvision's tables, whose GFLOPS are multiply-adds
        ("resnet18", 1.82e9, 11_689_512),
        ("mobilenet_v2", 0.30e9, 3_504_872),
        ("resnet50", 4.09e9, 25_557_032),
        ("vit_b_16", 17.56e9, 86_567_656),  # whose attention is one fused kernel on a device
    ],
)
def test_published_counts(name, published, parameters):
    with torch.device("meta"):  # nothing is computed: the counts are of shapes
        network = getattr(models, name)()
    network = network.to_empty(device="cpu")
    found = cost(network, torch.zeros(1, 3, 224, 224))
    assert found.macs == pytest.approx(published, rel=0.01)
    assert found.parameters == parameters


def test_the_network_stays_as_it_is(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = cost(network, torch.zeros(1, 3, 4, 4))
    assert found.macs == 16 * 4 * 3 * 9 + 64 * 5
    assert found.parameters == (4 * 27 + 4) + 2 * 4 + (64 * 5 + 5)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    save_weights(network, tmp_path / "n.safetensors")
    assert found.weights_bytes == (tmp_path / "n.safetensors").stat().st_size
    assert found.latency_ms is found.images_per_second is None


class Sleeper(nn.Module):
    """Slow in the first calls, which do not count, and once in a while."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        time.sleep(0.3 if self.calls <= 3 or self.calls == 6 else 0.06)
        return x


def test_the_median_of_warm_calls():
    network = Sleeper()
    assert 0.06 <= seconds_per_call(network, torch.zeros(1)) < 0.2
    assert network.calls >= 8
