import shutil
import time

import pytest
import torch
import torchvision

from ctkd_lightning.errors import UserError
from ctkd_lightning.features._head import find_classifier
from ctkd_lightning.models import create_model
from tests.processes import run_in_processes

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


@pytest.mark.parametrize(
    ("name", "classifier"),
    [("mobilenet_v3_small", "classifier.3"), ("squeezenet1_1", "classifier.1"), ("googlenet", "fc"), (NAME, "fc")],
)
def test_any_classifier_gives_logits_of_grey_images_also_in_training(name, classifier):
    model = create_model(f"torchvision/{name}", num_classes=5, in_channels=1)
    assert find_classifier(model) == classifier
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 5)


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


def create_pretrained():
    torch.set_num_threads(1)
    create_model(f"torchvision/{NAME}", pretrained=True)


def test_of_several_processes_one_downloads_the_weights(published, tmp_path, monkeypatch):
    (file,) = (tmp_path / "hub" / "checkpoints").iterdir()
    file.rename(tmp_path / "remote")

    def download(url, path, *arguments, **settings):
        with (tmp_path / "log").open("a") as log:
            log.write("downloaded\n")
        time.sleep(0.5)
        shutil.copy(tmp_path / "remote", path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert run_in_processes(2, create_pretrained) == [0, 0]
    assert (tmp_path / "log").read_text() == "downloaded\n"


def test_pretrained_weights_are_for_three_channels():
    with pytest.raises(UserError, match="are for 3 channels, found in_channels=1"):
        create_model("torchvision/resnet18", pretrained=True, in_channels=1)


@pytest.mark.parametrize("name", ["resnet19", "fcn_resnet50"])
def test_unknown_name(name):
    with pytest.raises(UserError, match=f"torchvision has no classifier '{name}': did you mean resnet"):
        create_model(f"torchvision/{name}")
