import pytest
import torchvision

from ctkd_lightning.errors import UserError
from ctkd_lightning.models import available_models, create_model
from tests.models.reference import GOLDEN


def test_available_models_are_the_zoos_and_torchvisions():
    names = available_models()
    assert {name for name in names if "/" not in name} == set(GOLDEN)
    assert f"torchvision/{torchvision.models.list_models(module=torchvision.models)[0]}" in names
    assert len(names) == len(set(names)) > 80


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrn40_2", r"unknown model 'wrn40_2': did you mean wrn_40_2 .* Valid: MobileNetV2, .*torchvision/NAME"),
        ("mobilenetv2", "did you mean MobileNetV2"),
        ("resnet18", r"did you mean torchvision/resnet18 \(or timm/resnet18\)"),
        ("keras/resnet18", "unknown model 'keras/resnet18'"),
        ("", "unknown model ''"),
    ],
)
def test_unknown_name(name, message):
    with pytest.raises(UserError, match=message):
        create_model(name)


@pytest.mark.parametrize("name", ["resnet8", "torchvision/resnet18", "timm/resnet18"])
@pytest.mark.parametrize("num_classes", [1, 0, -5])
def test_too_few_classes(name, num_classes):
    with pytest.raises(UserError, match=f"num_classes must be at least 2, found {num_classes}"):
        create_model(name, num_classes=num_classes)


@pytest.mark.parametrize("name", ["resnet8", "torchvision/resnet18"])
def test_unknown_option(name):
    with pytest.raises(UserError, match=f"wrong option for model {name}: .*'colour'"):
        create_model(name, colour="red")


def test_option_that_the_name_already_says():
    with pytest.raises(UserError, match=r"wrong option for model resnet8: .*multiple values for argument 'depth'"):
        create_model("resnet8", depth=14)


def test_a_type_error_that_is_no_wrong_option_is_not_hidden():
    with pytest.raises(TypeError):
        create_model("resnet8", in_channels="three")


def test_the_zoo_has_no_published_weights():
    with pytest.raises(UserError, match=r"wrn_40_2 has no weights to download: pass pretrained=False"):
        create_model("wrn_40_2", pretrained=True)
