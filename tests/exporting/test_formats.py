"""Every architecture in the formats of others, on real images."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import interpolate

from ctkd_lightning.errors import UserError
from ctkd_lightning.exporting import as_onnx
from ctkd_lightning.exporting.formats import FORMATS
from ctkd_lightning.exporting.quiet import quiet
from ctkd_lightning.models import StudentDescription, create_model
from tests.models.reference import GOLDEN

OTHERS = {
    "torchvision/resnet18": 64,
    "torchvision/mobilenet_v3_small": 64,
    "timm/mobilenetv3_small_050": 64,
    "timm/vit_tiny_patch16_224": 224,
}


def real_images(size, count):
    """(count, 3, size, size): handwritten digits in [0, 1]."""
    images = torch.from_numpy(load_digits().images[:count]).float()[:, None] / 16
    return interpolate(images, size=size, mode="bilinear").expand(-1, 3, -1, -1).contiguous()


@torch.no_grad()
def settled(name, size):
    """A network in eval mode, whose normalisations have seen images, so that these show in its logits.

    Digits and noisy digits: after the few clean ones alone some channels hardly vary, and ShuffleV1's own float32 is
    4e-4 away from its float64.
    """
    torch.manual_seed(0)
    network = create_model(name, num_classes=10)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain mean
    images = real_images(size, 16)
    network((torch.cat([images, (images + torch.rand_like(images)) / 2]) - 0.3) / 0.3)
    return network.eval()


def greatest_differences(network, size, folder):
    """Of the logits, by format."""
    description = StudentDescription(
        network="any", classes=["0", "1"], image_size=size, mean=[0.3] * 3, std=[0.3] * 3, normalize=True
    )
    images = real_images(size, 4)
    with torch.no_grad():
        expected = network((images - 0.3) / 0.3)
    assert expected.std(0).max() > 0.01  # the images show in the logits
    found = {}
    for kind in ("onnx", "torch_export"):
        with quiet():
            FORMATS[kind].write(network, description, folder / kind)
            run = FORMATS[kind].load(folder / kind)
        found[kind] = max((run(images[:count]) - expected[:count]).abs().max().item() for count in (1, 4))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_all_of_the_zoo(name, tmp_path):
    found = greatest_differences(settled(name, 32), 32, tmp_path)
    print(name, found)
    assert max(found.values()) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_networks_of_other_libraries(name, tmp_path):
    found = greatest_differences(settled(name, OTHERS[name]), OTHERS[name], tmp_path)
    print(name, found)
    assert max(found.values()) <= 1e-4


def test_what_onnx_needs(monkeypatch):
    monkeypatch.setattr(as_onnx, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(UserError, match=r'onnxscript, which is not installed: pip install "ctkd-lightning\[onnx\]"'):
        FORMATS["onnx"].check()
