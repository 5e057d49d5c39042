"""All CIFAR families against the reference zoo's numbers, and what they have in common."""

import hashlib
import json

import pytest
import torch
from torch import nn

from ctkd_lightning.models import create_model
from tests.models.reference import (
    FAMILIES,
    GOLDEN,
    fill_by_formula,
    formula_input,
    hooked_features,
    layers_behind_activations,
)


@pytest.mark.parametrize("name", GOLDEN)
def test_entries_and_outputs_are_the_reference_zoos(name):
    golden = GOLDEN[name]
    model = create_model(name).eval()

    entries = [[key, list(tensor.shape)] for key, tensor in model.state_dict().items()]
    assert len(entries) == golden["entries"]
    assert hashlib.sha256(json.dumps(entries).encode()).hexdigest() == golden["state_dict_sha256"]
    assert sum(parameter.numel() for parameter in model.parameters()) == golden["params"]

    fill_by_formula(model)
    with torch.no_grad():
        features, logits = hooked_features(model, formula_input())
    torch.testing.assert_close(logits[:, :8], torch.tensor(golden["logits_first8"]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.norm(dim=1), torch.tensor(golden["logits_norm"]), rtol=1e-5, atol=1e-5)
    stages = [f"stage{number}" for number in range(1, len(golden["features"]) - 1)]
    preacts = [f"{stage}_preact" for stage in stages]
    assert list(model.feature_layers) == ["stem", *stages, "pooled", *preacts]
    assert list(features) == ["stem", *stages, "pooled"]
    assert [list(feature.shape) for feature in features.values()] == golden["features"]
    means = [feature.abs().mean().item() for feature in features.values()]
    assert means == pytest.approx(golden["feature_mean_abs"], rel=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_classifier_maps_the_pooled_feature_to_the_logits(name):
    model = create_model(name, num_classes=7).eval()
    features, logits = hooked_features(model, formula_input())
    classifier = model.get_submodule(model.classifier_layer)
    assert isinstance(classifier, nn.Linear)
    torch.testing.assert_close(features["pooled"] @ classifier.weight.T + classifier.bias, logits)


@pytest.mark.parametrize("size", [28, 48, 64])
@pytest.mark.parametrize("name", FAMILIES)
def test_other_image_sizes_channels_and_classes(name, size):
    model = create_model(name, num_classes=10, in_channels=1).eval()
    assert model(torch.zeros(2, 1, size, size)).shape == (2, 10)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_later_layer_writes_into_a_hooked_feature(name):
    model = create_model(name)
    copies = {}
    for role, layer in layers_behind_activations(model).items():
        model.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output, role=role: copies.update({role: (output, output.detach().clone())})
        )
    model(formula_input())
    for kept, when_hooked in copies.values():
        assert torch.equal(kept, when_hooked)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_gets_a_finite_gradient(name):
    model = create_model(name)
    model(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_last_is_kept_and_changes_no_value(name):
    model = create_model(name).eval().double()  # in float32 the two layouts' kernels round differently
    images = formula_input().double()
    with torch.no_grad():
        expected = model(images)
        model.to(memory_format=torch.channels_last)
        features, logits = hooked_features(model, images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, expected)
    maps = [feature for feature in features.values() if feature.ndim == 4]
    assert all(feature.is_contiguous(memory_format=torch.channels_last) for feature in maps)


@pytest.mark.parametrize(
    "name",
    [
        *("wrn_16_2", "vgg8", "ShuffleV1"),  # dropout, a branch on the image's size, channel shuffle
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet8", "MobileNetV2", "ShuffleV2", "ResNet50")),
    ],
)
def test_compiles_as_one_graph(name):
    torch.compiler.reset()
    model = create_model(name).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(formula_input()), model(formula_input()))
