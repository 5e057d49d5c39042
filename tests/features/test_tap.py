import copy
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.features.frozen import FrozenNetwork
from ctkd_lightning.features.layers import default_layers
from ctkd_lightning.features.tap import FeatureTap, select_layers
from ctkd_lightning.models import create_model


class Small(nn.Module):
    """A convolution that an in-place activation overwrites, a layer that runs twice, and one that never does."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.twice = nn.Identity()
        self.unused = nn.Identity()
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.relu(self.conv(x))
        x = self.twice(self.twice(x) * 2)
        return self.fc(x.mean(dim=(2, 3)))


@pytest.fixture
def images():
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_reads_outputs_and_inputs(images):
    network = Small()
    conv = network.conv(images)
    output = FeatureTap(network, {"last": "twice", "before": "relu:input", "pooled": "fc:input"})(images)
    assert torch.equal(output.logits, network(images))
    assert torch.equal(output.features["before"], conv)  # also though the layer overwrites it
    assert torch.equal(output.features["last"], 2 * conv.relu())  # of the last run
    assert torch.equal(output.features["pooled"], 2 * conv.relu().mean(dim=(2, 3)))
    assert output.classifier is network.fc
    (gradient,) = torch.autograd.grad(output.features["before"].sum(), network.conv.bias)
    assert gradient.tolist() == [72.0] * 4


def test_an_output_that_a_later_layer_overwrites_is_copied(images):
    network = Small()
    conv = network.conv(images)
    runs = []
    network.unused.register_forward_hook(lambda *call: runs.append("unused"))
    network.fc.register_forward_hook(lambda *call: runs.append("fc"))
    tap = FeatureTap(network, {"last": "conv", "pooled": "fc:input"})
    for _ in range(3):  # the first time it finds out
        runs.clear()
        output = tap(images)
        assert runs == ["fc"]
        assert torch.equal(output.features["last"], conv)
        assert torch.equal(output.logits, network.fc(2 * conv.relu().mean(dim=(2, 3))))
    (gradient,) = torch.autograd.grad(output.features["last"].sum(), network.conv.bias)
    assert gradient.tolist() == [72.0] * 4


def test_code_compiled_without_hooks_does_not_serve_a_network_with_them(images, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    for layers in ({}, {"pooled": "fc:input"}):
        network = Small()
        tap = FeatureTap(network, layers)
        plain = tap(images)
        tap.compile()
        compiled = tap(images)
        assert torch.equal(compiled.logits, plain.logits)
        assert compiled.features.keys() == plain.features.keys()
        for role, value in plain.features.items():
            assert torch.equal(compiled.features[role], value)


@pytest.mark.parametrize("name", ["wrn_16_1", "resnet8", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet50"])
def test_any_layer_of_the_zoo_can_be_read(name):
    """Also normalisations, on whose outputs the activations work in place: their outputs on the inputs they had."""
    torch.manual_seed(0)
    network = create_model(name, num_classes=5).eval()
    norms = {n: m for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    images = torch.randn(2, 3, 32, 32)
    features = FeatureTap(network, {**{n: n for n in norms}, **{f"{n}:input": f"{n}:input" for n in norms}})(images)
    assert not torch.equal(features.logits, torch.zeros(2, 5))
    for n, norm in norms.items():
        torch.testing.assert_close(features.features[n], norm(features.features[f"{n}:input"]))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("conf", r"no layer 'conf', asked for as 'last': did you mean conv\? At its top are conv, relu, twice, unused"),
        ("fc:output", "no layer 'fc:output'"),
    ],
)
def test_unknown_layer(layer, message):
    with pytest.raises(UserError, match=message):
        FeatureTap(Small(), {"last": layer})


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("unused", "layer 'unused', asked for as 'last', did not run"),
    ],
)
def test_layer_that_gives_nothing_of_use(layer, message, images):
    with pytest.raises(UserError, match=message):
        FeatureTap(Small(), {"last": layer})(images)


def test_outputs_that_are_no_tensors(images):
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(UserError, match="layer '0', asked for as 'last', gave a tuple"):
        FeatureTap(nn.Sequential(Pair(), First()), {"last": "0"})(images)
    with pytest.raises(UserError, match="student gave a tuple without a tensor of logits: expected a tensor"):
        FeatureTap(Pair(), {})(images)


class First(nn.Module):
    def forward(self, pair):
        return pair[0]


def hooks(network):
    return [h for m in network.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]


def test_is_removed_cleanly_and_keeps_nothing_alive(images):
    network = Small()
    with FeatureTap(network, {"last": "twice", "pooled": "fc:input"}) as tap:
        assert len(hooks(network)) == 2
        network(images)  # not by the tap
        tap(images)
        assert tap._store.heard is None
    assert hooks(network) == []


def test_copies_of_the_network_are_inert(images):
    network = Small()
    tap = FeatureTap(network, {"last": "twice"})
    twin = copy.deepcopy(network)
    heard = tap.listen()
    twin(images)
    assert heard.kept == {}
    network(images)
    assert list(heard.kept) == ["twice"]


def test_a_failing_network_leaves_no_features(images):
    tap = FeatureTap(Small(), {"last": "twice"})
    with pytest.raises(RuntimeError):
        tap(images[:, :2])
    assert tap._store.heard is None
    assert tap(images).features["last"].shape == (2, 4, 6, 6)


def test_wrapped_networks(images):
    network = Small().eval()
    expected = FeatureTap(network, {"last": "twice"})(images).features["last"]
    frozen = FeatureTap(FrozenNetwork(copy.deepcopy(network)), {"last": "twice"})(images).features["last"]
    assert torch.equal(frozen, expected)
    assert not frozen.requires_grad
    with torch.inference_mode():
        assert torch.equal(FeatureTap(network, {"last": "twice"})(images).features["last"], expected)


def test_compiled_network(images):
    network = Small()
    expected = FeatureTap(network, {"last": "twice"})(images)
    compiled = torch.compile(copy.deepcopy(network), backend="eager", fullgraph=True)
    tap = FeatureTap(compiled, {"last": "twice"})
    for _ in range(2):
        output = tap(images)
        torch.testing.assert_close(output.features["last"], expected.features["last"])
        output.features["last"].sum().backward()


@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet50"])
def test_zoo_names_its_own_layers(name):
    with torch.device("meta"):
        network = create_model(name)
        layers = select_layers(network, ("stages", "last", "pooled"))
        output = FeatureTap(network.eval(), layers)(torch.empty(2, 3, 32, 32))
    own = {k: v for k, v in network.feature_layers.items() if k != "stem" and not k.endswith("_preact")}
    assert layers == {**own, "last": layers["last"]}
    assert output.feature("last") is output.stages[-1]
    assert output.classifier(output.feature("pooled")).shape == output.logits.shape


# from the papers' tables of the architectures: channels and size, at 64 pixels, of each stage
TORCHVISION = {
    "resnet18": [(64, 16), (128, 8), (256, 4), (512, 2)],
    "resnet50": [(256, 16), (512, 8), (1024, 4), (2048, 2)],
    "vgg11_bn": [(64, 64), (128, 32), (256, 16), (512, 8), (512, 4)],
    "mobilenet_v2": [(16, 32), (24, 16), (32, 8), (96, 4), (1280, 2)],
    "mobilenet_v3_small": [(16, 16), (24, 8), (48, 4), (576, 2)],
    "shufflenet_v2_x1_0": [(116, 8), (232, 4), (1024, 2)],
    "densenet121": [(256, 16), (512, 8), (1024, 4), (1024, 2)],
    "efficientnet_b0": [(16, 32), (24, 16), (40, 8), (112, 4), (1280, 2)],
    "convnext_tiny": [(96, 16), (192, 8), (384, 4), (768, 2)],
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_families(name):
    import torchvision

    with torch.device("meta"):
        network = torchvision.models.get_model(name).eval()
        output = FeatureTap(network, select_layers(network, ("stages", "pooled")))(torch.empty(2, 3, 64, 64))
    assert [(s.shape[1], s.shape[2]) for s in output.stages] == TORCHVISION[name]
    assert output.classifier(output.feature("pooled")).shape == (2, 1000)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet18", [(64, 16), (128, 8), (256, 4), (512, 2)]),
        ("convnext_atto", [(40, 16), (80, 8), (160, 4), (320, 2)]),
        ("swin_tiny_patch4_window7_224", [(96, 56), (192, 28), (384, 14), (768, 7)]),  # its own maps end in channels
    ],
)
def test_timm_families(name, stages):
    timm = pytest.importorskip("timm")
    size = 224 if "224" in name else 64
    with torch.device("meta"):
        network = timm.create_model(name).eval()
        output = FeatureTap(network, select_layers(network, ("stages", "pooled")))(torch.empty(2, 3, size, size))
    assert [(s.shape[1], s.shape[2]) for s in output.stages] == stages
    assert output.classifier(output.feature("pooled")).shape == (2, 1000)


def test_other_networks_have_pooled_features_and_take_names(images):
    network = Small()
    assert default_layers(network) == {"pooled": "fc:input"}
    assert select_layers(network, ("last", "pooled"), {"last": "twice"}) == {"last": "twice", "pooled": "fc:input"}
    assert select_layers(network, ("stages",), {"stage10": "twice", "stage9": "relu"}) == {
        "stage9": "relu",
        "stage10": "twice",
    }
    assert select_layers(network, ()) == {}
    with pytest.raises(UserError, match=r"Small names no layer for 'last' \(known: pooled\): name one, .*conv, relu"):
        select_layers(network, ("pooled", "last"))
    with pytest.raises(UserError, match="Conv2d names no layer for 'pooled'"):
        select_layers(nn.Conv2d(3, 4, 1), ("pooled",))


class Spoiling(nn.Module):
    """Overwrites a layer's output in training mode only."""

    def __init__(self):
        super().__init__()
        self.conv, self.drop, self.fc = nn.Conv2d(3, 4, 1), nn.Dropout(0.5, inplace=True), nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.drop(self.conv(x)).mean(dim=(2, 3)))


def test_what_is_overwritten_in_one_mode_only(images):
    network = Spoiling().eval()
    tap, conv = FeatureTap(network, {"last": "conv"}), network.conv(images)
    for training in (False, True, False, True):
        network.train(training)
        for _ in range(2):
            assert torch.equal(tap(images).features["last"], conv)


def test_outputs_that_nobody_overwrites_are_not_copied(images):
    network, given = Small(), []
    network.twice.register_forward_hook(lambda layer, inputs, output: given.append(output))
    tap = FeatureTap(network, {"last": "twice", "again": "twice"})
    first, second = tap(images), tap(images)
    assert first.features["last"] is first.features["again"]
    assert first.features["last"] is not given[1]
    assert second.features["last"] is given[3]


def test_overwritten_in_inference_mode(images):
    network = Small()
    with torch.inference_mode():
        conv = network.conv(images)
        tap = FeatureTap(network, {"last": "conv"})
        for _ in range(2):
            assert torch.equal(tap(images).features["last"], conv)


def test_listens_to_runs_of_others(images):
    network = Small()
    tap = FeatureTap(network, {"last": "conv"})
    runs = []
    for scale in (1.0, 2.0, 3.0):
        heard = tap.listen()
        network(scale * images)
        tap.stop(heard)
        runs.append(heard)
    network(images)
    for scale, heard in zip((1.0, 2.0, 3.0), runs, strict=True):
        torch.testing.assert_close(tap.features(heard)["last"], network.conv(scale * images))


def test_runs_within_each_other(images):
    network = Small()
    tap = FeatureTap(network, {"last": "conv"})
    outer = tap.listen()
    network(images)
    inner = tap.listen()
    network(2 * images)
    tap.stop(inner)
    tap.stop(outer)
    assert tap._store.heard is None
    assert torch.equal(tap.features(outer)["last"], network.conv(images))
    assert torch.equal(tap.features(inner)["last"], network.conv(2 * images))


def test_a_listener_is_told_of_what_it_has_lost(images):
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            maps = self.conv(x)
            return (maps.relu_() if late else maps.relu()).mean(dim=(2, 3))

    late, network = False, Late()
    tap = FeatureTap(network, {"last": "conv"})
    tap(images)
    late = True
    heard = tap.listen()
    network(images)
    tap.stop(heard)
    with pytest.raises(UserError, match="what layer 'conv' gave is overwritten in this step and not in those before"):
        tap.features(heard)
    late = False
    tap = FeatureTap(network, {"last": "conv"})
    tap(images)
    late = True
    assert torch.equal(tap(images).features["last"], network.conv(images))  # which can run the network again


def preacts(network, layers=None):
    return select_layers(network, ("preacts",), layers, argument="teacher_layers")


class Stages(nn.Module):
    """Three stages: one ends in a sequence's activation, one in a layer of it, one in none."""

    feature_layers = {"stage1": "0", "stage2": "2", "stage3": "3"}  # noqa: RUF012

    def __init__(self, **layers):
        super().__init__()
        self.add_module("0", nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True))))
        self.add_module("1", nn.Conv2d(4, 4, 1))
        self.add_module("2", nn.SiLU(inplace=True))
        self.add_module("3", nn.Conv2d(4, 4, 1))
        self.feature_layers = {**self.feature_layers, **layers}

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x.mean(dim=(2, 3))


def test_maps_before_the_activation_are_named_or_found():
    found = {"stage1_preact": "0.1.1:input", "stage2_preact": "2:input", "stage3_preact": "3"}
    with pytest.warns(UserWarning, match=r"Stages names no layer for the maps before the activation \(stage3_preact\)"):
        assert preacts(Stages()) == found
    with pytest.warns(UserWarning, match=r"name the layers, as in teacher_layers=\{stage3_preact: NAME\}"):
        preacts(Stages())
    with warnings.catch_warnings(action="error"):
        assert preacts(Stages(), {"stage3_preact": "3"}) == found
        assert preacts(Stages(stage1_preact="0.0", stage3_preact="3")) == {**found, "stage1_preact": "0.0"}
        assert select_layers(Stages(), ("stages",)) == Stages.feature_layers  # asked for nothing else


def test_a_stage_that_the_user_names_has_another_map_before_its_activation():
    network = Stages(stage1_preact="0.0", stage3_preact="3")
    with pytest.warns(UserWarning, match=r"\(stage1_preact\)"):
        assert preacts(network, {"stage1": "1"})["stage1_preact"] == "1"
    assert preacts(network, {"stage1": "2"})["stage1_preact"] == "2:input"
    assert preacts(network, {"stage1": "2", "stage1_preact": "1"})["stage1_preact"] == "1"


def test_maps_before_the_activation_without_stages():
    assert preacts(Small(), {"stage1_preact": "conv"}) == {"stage1_preact": "conv"}
    with pytest.raises(UserError, match=r"Small names no layer for 'preacts' .*teacher_layers=\{stage1: NAME\}"):
        preacts(Small())


def sum_before_the_last_activation(network, images, kind):
    """By hand: the branch's last normalisation plus the shortcut, of each stage's last block."""
    seen = {}
    for name, layer in network.named_modules():
        layer.register_forward_hook(lambda _l, inputs, output, name=name: seen.update({name: output.clone()}))
    network(images)
    last = {"bn2": (2, 2, 2, 2), "bn3": (3, 4, 6, 3)}[kind]
    blocks = [(f"layer{i}.{n - 1}", f"layer{i}.{n - 2}") for i, n in enumerate(last, start=1)]
    return [seen[f"{block}.{kind}"] + seen[before] for block, before in blocks]


@pytest.mark.parametrize("distribution", ["torchvision", "timm"])
@pytest.mark.parametrize(("name", "kind"), [("resnet18", "bn2"), ("resnet50", "bn3")])
def test_residual_networks_of_other_packages_are_read_before_the_activation(distribution, name, kind):
    pytest.importorskip(distribution)
    torch.manual_seed(0)
    network = create_model(f"{distribution}/{name}", num_classes=5).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)  # timm's start at zero
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), warnings.catch_warnings(action="error"):
        found = FeatureTap(network, preacts(network))(images).preacts
        expected = sum_before_the_last_activation(copy.deepcopy(network), images, kind)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert all((x < 0).any() for x in found)
