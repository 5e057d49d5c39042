import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models

from ctkd_lightning.errors import UserError
from ctkd_lightning.models import (
    StudentDescription,
    create_model,
    describe_student,
    load_student,
    load_weights,
    save_weights,
)
from ctkd_lightning.models._factory import options_without_download
from ctkd_lightning.models._student import save_student

DESCRIPTION = {
    "network": "wrn_16_1",
    "options": {"dropout": 0.25},
    "classes": ["<cat>", "日"],
    "image_size": 16,
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "temperature": {"kd": 2.5, "dkd": 4.0},
    "version": "1.2.3",
}


@pytest.mark.parametrize("normalize", [True, False])
def test_a_file_is_enough_to_build_the_network_again(normalize):
    network = create_model("wrn_16_1", 2, dropout=0.25).eval()
    description = StudentDescription(**DESCRIPTION, normalize=normalize)
    save_student(network, "student.safetensors", description)
    again = load_student("student.safetensors")
    assert not any(part.training for part in again.modules())
    assert describe_student("student.safetensors") == description
    pixels = torch.rand(3, 3, 16, 16)
    mean, std = torch.tensor(DESCRIPTION["mean"]), torch.tensor(DESCRIPTION["std"])
    given = ((pixels.movedim(1, -1) - mean) / std).movedim(-1, 1)
    with torch.no_grad():
        torch.testing.assert_close(again(pixels if normalize else given), network(given))
    other = create_model("wrn_16_1", 2)
    load_weights(other, "student.safetensors")  # weights alone may be wanted
    assert torch.equal(other.fc.weight, network.fc.weight)


def test_a_network_that_is_larger_than_its_file_takes_no_memory():
    network = create_model("resnet8", 2)
    huge = {"network": "torchvision/resnet50", "options": {"width_per_group": 20_000}}
    description = StudentDescription(**DESCRIPTION | huge, normalize=True)
    save_weights(network, "huge.safetensors", description.metadata())
    with pytest.raises(UserError, match=r"says that its network has [\d,]{15,} values, and the file has"):
        load_student("huge.safetensors")


def test_what_is_no_students_file():
    network = create_model("resnet8", 2)
    save_weights(network, "alone.safetensors")
    with pytest.raises(UserError, match=r"alone.safetensors holds weights alone and does not say of which network"):
        load_student("alone.safetensors")
    with pytest.raises(UserError, match=r"no such checkpoint: none.safetensors"):
        load_student("none.safetensors")
    save_file(load_file("alone.safetensors"), "half.safetensors", {"network": "resnet8"})
    with pytest.raises(UserError, match=r"half.safetensors does not say 'options' .* export it again"):
        load_student("half.safetensors")
    with open("damaged.safetensors", "wb") as file:
        file.write(b"damaged")
    with pytest.raises(UserError, match=r"damaged.safetensors is truncated, damaged or no safetensors file"):
        load_student("damaged.safetensors")


@pytest.mark.parametrize(
    ("name", "attribute"),
    [("googlenet", "transform_input"), ("inception_v3", "transform_input"), ("vit_h_14", "image_size")],
)
def test_a_pretrained_network_is_built_again_without_its_weights(monkeypatch, name, attribute):
    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", lambda *_, **__: {})
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
    with torch.device("meta"):
        pretrained = models.get_model(name, weights=models.get_model_weights(name).DEFAULT)
        options = options_without_download(f"torchvision/{name}", pretrained=True)
        again = create_model(f"torchvision/{name}", 1000, **options)
        plain = create_model(f"torchvision/{name}", 1000)
    assert getattr(again, attribute) == getattr(pretrained, attribute) != getattr(plain, attribute)


def test_options_of_others_stay():
    assert options_without_download("wrn_16_2", dropout=0.5) == {"dropout": 0.5}
    assert options_without_download("timm/resnet18", pretrained=True) == {}
