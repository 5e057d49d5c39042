import pytest
import torch
import torchvision

from ctkd_lightning.errors import UserError
from ctkd_lightning.models import create_model
from tests.models.reference import hooked_features

NAME = "shufflenet_v2_x0_5"  # the smallest download


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Random weights in the cache, under the name of the published file."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.get_model_weights(NAME).DEFAULT
    file = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    state = torchvision.models.get_model(NAME).state_dict()
    torch.save(state, file)
    return state


def test_residual_networks_have_all_roles():
    model = create_model("torchvision/resnet18", num_classes=7).eval()
    features, logits = hooked_features(model, torch.randn(2, 3, 64, 64))
    assert {role: tuple(feature.shape[1:]) for role, feature in features.items()} == {
        "stem": (64, 32, 32),
        "stage1": (64, 16, 16),
        "stage2": (128, 8, 8),
        "stage3": (256, 4, 4),
        "stage4": (512, 2, 2),
        "pooled": (512,),
    }
    assert model.classifier_layer == "fc"
    torch.testing.assert_close(model.fc(features["pooled"]), logits)


@pytest.mark.parametrize(
    ("name", "size", "classifier_layer"),
    [
        ("mobilenet_v3_small", 32, "classifier.3"),
        ("squeezenet1_1", 32, "classifier.1"),
        ("googlenet", 32, "fc"),
        (NAME, 32, "fc"),
    ],
)
def test_any_classifier_gives_logits_of_grey_images_also_in_training(name, size, classifier_layer):
    model = create_model(f"torchvision/{name}", num_classes=5, in_channels=1)
    assert model.classifier_layer == classifier_layer
    assert model(torch.randn(2, 1, size, size)).shape == (2, 5)


def test_pretrained_weights_with_their_own_classes(published):
    state = create_model(f"torchvision/{NAME}", num_classes=1000, pretrained=True).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in published.items())


def test_pretrained_weights_with_other_classes_get_a_new_last_layer(published):
    model = create_model(f"torchvision/{NAME}", num_classes=10, pretrained=True)
    state = model.state_dict()
    assert state.pop("fc.weight").shape == (10, 1024)
    assert state.pop("fc.bias").shape == (10,)
    assert all(torch.equal(tensor, published[name]) for name, tensor in state.items())
    assert len(state) == len(published) - 2


def test_pretrained_weights_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(UserError, match=rf"weights of torchvision/{NAME} are neither cached .* pretrained=False"):
        create_model(f"torchvision/{NAME}", pretrained=True)


def test_pretrained_weights_are_for_three_channels():
    with pytest.raises(UserError, match="are for 3 channels, found in_channels=1"):
        create_model("torchvision/resnet18", pretrained=True, in_channels=1)


@pytest.mark.parametrize("name", ["resnet19", "fcn_resnet50"])
def test_unknown_name(name):
    with pytest.raises(UserError, match=f"torchvision has no classifier '{name}'; near names: resnet"):
        create_model(f"torchvision/{name}")
