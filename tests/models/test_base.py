import math

import pytest
import torch
from torch import nn

from ctkd_lightning.models import create_model


@pytest.mark.parametrize("name", ["resnet20", "wrn_16_2", "vgg8", "MobileNetV2", "ResNet50"])
def test_convolutions_start_with_hes_standard_deviation(name):
    torch.manual_seed(0)
    for layer in create_model(name).modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 10_000:
            expected = math.sqrt(2 / (layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels))
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", ["vgg8", "MobileNetV2"])
def test_small_start_of_the_classifier(name):
    torch.manual_seed(0)
    model = create_model(name)
    classifier = model.get_submodule(model.classifier_layer)
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not classifier.bias.any()
