"""The maps before the activation, read where the authors of OFD, AB and ReviewKD read them.

Each family's places are worked out here from hooks on convolutions and normalisations alone, as the published networks
have them: mdistiller's ``preact_feats`` and RepDistiller's ``preact=True``.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctkd_lightning.features.frozen import FrozenNetwork
from ctkd_lightning.features.tap import FeatureTap, select_layers
from ctkd_lightning.models import create_model


def run(network, images):
    """Inputs and outputs of all layers, copied as they came, by name."""
    seen, handles = {}, []
    for name, layer in network.named_modules():
        handles.append(
            layer.register_forward_hook(
                lambda _layer, inputs, output, name=name: seen.update({name: (seen[name], output.clone())})
            )
        )
        handles.append(
            layer.register_forward_pre_hook(lambda _layer, inputs, name=name: seen.update({name: inputs[0].clone()}))
        )
    network(images)
    for handle in handles:
        handle.remove()
    return {name: x for name, (x, _) in seen.items()}, {name: y for name, (_, y) in seen.items()}


def of_resnet(network, given, gave):
    last = [f"layer{i}.{len(network.get_submodule(f'layer{i}')) - 1}" for i in (1, 2, 3)]
    return [gave[f"{block}.bn2"] + gave[f"{block}.downsample"] for block in last]


def of_wide_resnet(network, given, gave):
    return [
        network.block2.layer[0].bn1(gave["block1"]),
        network.block3.layer[0].bn1(gave["block2"]),
        network.bn1(gave["block3"]),
    ]


def of_vgg(network, given, gave):
    ends = [len(network.get_submodule(f"block{i}")) - 1 for i in (1, 2, 3, 4)]
    return [gave[f"block{i}.{end}"] for i, end in enumerate(ends, start=1)]  # the last normalisation


def of_resnet50(network, given, gave):
    last = ["layer1.2", "layer2.3", "layer3.5", "layer4.2"]
    return [gave[f"{block}.bn3"] + given[block] for block in last]


def of_shufflenetv1(network, given, gave):
    return [gave[f"{unit}.bn3"] + given[unit] for unit in ("layer1.3", "layer2.7", "layer3.3")]


def of_shufflenetv2(network, given, gave):
    # not yet shuffled
    halves = [(given[unit].chunk(2, dim=1)[0], gave[f"{unit}.bn3"]) for unit in ("layer1.3", "layer2.7", "layer3.3")]
    return [torch.cat(pair, dim=1) for pair in halves]


def of_mobilenetv2(network, given, gave):
    # linear bottlenecks: no activation ends a stage; a stage of one block, or whose last block has a shortcut
    last = [("blocks.1.1", True), ("blocks.2.2", True), ("blocks.4.2", True), ("blocks.6.0", False)]
    return [gave[f"{block}.conv.7"] + (given[block] if shortcut else 0) for block, shortcut in last]


PUBLISHED = {
    **dict.fromkeys(("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"), of_resnet),
    **dict.fromkeys(("resnet8x4", "resnet32x4"), of_resnet),
    **dict.fromkeys(("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"), of_wide_resnet),
    **dict.fromkeys(("vgg8", "vgg11", "vgg13", "vgg16", "vgg19"), of_vgg),
    "ResNet50": of_resnet50,
    "ShuffleV1": of_shufflenetv1,
    "ShuffleV2": of_shufflenetv2,
    "MobileNetV2": of_mobilenetv2,
}
FAMILIES = ("resnet8", "wrn_16_1", "vgg8", "ResNet50", "ShuffleV1", "ShuffleV2", "MobileNetV2")


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network_of(name):
    """With normalisations that do something, so that other places have other values."""
    torch.manual_seed(1)
    network = create_model(name, num_classes=5).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return network


def tapped(network):
    return FeatureTap(network, select_layers(network, ("stages", "preacts", "pooled")))


@pytest.mark.parametrize("name", PUBLISHED)
def test_maps_are_those_of_the_published_places(name, images):
    network = network_of(name)
    with torch.no_grad():
        expected = PUBLISHED[name](network, *run(network, images))
        with tapped(network) as tap:
            for _ in range(2):  # the tap copies everything the first time, and then what is overwritten
                output = tap(images)
                torch.testing.assert_close(output.preacts, expected, rtol=0, atol=0)
    assert all((x < 0).any() for x in output.preacts)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_stage_is_what_the_activation_makes_of_it(name, images):
    output = tapped(network_of(name))(images)
    if name.startswith("wrn"):  # its stages are not behind an activation: another normalisation is between
        return
    for stage, preact in zip(output.stages, output.preacts, strict=True):
        rectified = preact.relu()
        if name == "MobileNetV2":
            rectified = preact
        if name == "ShuffleV2":
            passed, rest = preact.chunk(2, dim=1)
            rectified = torch.stack([passed, rest.relu()], dim=2).flatten(1, 2)
        assert torch.equal(stage, rectified)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_reading_them_changes_neither_the_logits_nor_their_gradients(name, training, images):
    network = network_of(name).train(training)
    twin = copy.deepcopy(network)
    tap = tapped(network)
    for _ in range(2):
        network.zero_grad(), twin.zero_grad()
        logits, plain = tap(images).logits, twin(images)
        F.cross_entropy(logits, torch.tensor([0, 1])).backward()
        F.cross_entropy(plain, torch.tensor([0, 1])).backward()
        assert torch.equal(logits, plain)
        for own, other in zip(network.parameters(), twin.parameters(), strict=True):
            assert torch.equal(own.grad, other.grad)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_the_network_through_them(name, images):
    network = network_of(name).double()
    weight = network.get_submodule("conv1.0" if name == "MobileNetV2" else "block0.0" if name == "vgg8" else "conv1")
    tap, direction = tapped(network), torch.randn_like(weight.weight)

    def value(step):
        with torch.no_grad():
            weight.weight.add_(step * direction)
            result = sum(x.square().sum() for x in tap(images.double()).preacts)
            weight.weight.sub_(step * direction)
        return result

    (gradient,) = torch.autograd.grad(sum(x.square().sum() for x in tap(images.double()).preacts), weight.weight)
    expected = (value(1e-8) - value(-1e-8)) / 2e-8
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-3, atol=0)


SLOW = ("ShuffleV2", "MobileNetV2")  # to trace


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in FAMILIES]
)
def test_wrapped_networks(name, images):
    network = network_of(name)
    expected = [x.detach() for x in tapped(network)(images).preacts]
    with torch.inference_mode():
        torch.testing.assert_close(tapped(copy.deepcopy(network))(images).preacts, expected)
    frozen = tapped(FrozenNetwork(copy.deepcopy(network)))
    torch.testing.assert_close(frozen(images).preacts, expected)
    compiled = torch.compile(copy.deepcopy(network), backend="eager")
    torch.compiler.reset()
    tap = tapped(compiled)
    for _ in range(2):
        torch.testing.assert_close([x.detach() for x in tap(images).preacts], expected)
