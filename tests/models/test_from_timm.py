import ast
import sys
from pathlib import Path

import pytest
import torch

import ctkd_lightning
from ctkd_lightning.errors import UserError
from ctkd_lightning.models import create_model


def test_without_timm_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r'pip install "ctkd-lightning\[timm\]"'):
        create_model("timm/resnet18")


def test_no_module_imports_timm_at_its_top():
    for file in Path(ctkd_lightning.__file__).parent.rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            assert not isinstance(node, ast.Import | ast.ImportFrom) or "timm" not in ast.unparse(node).split(), file


@pytest.fixture
def _timm():
    pytest.importorskip("timm")


@pytest.mark.usefixtures("_timm")
class TestTimm:
    @pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
    def test_grey_images_and_classes(self, name):
        model = create_model(f"timm/{name}", num_classes=7, in_channels=1, drop_rate=0.5)
        assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)
        assert model.drop_rate == 0.5

    @pytest.mark.parametrize(
        ("name", "pretrained", "message"),
        [
            ("resnet19", False, r"Unknown model \(resnet19\): did you mean resnet18"),
            ("nope_net", False, r"\(nope_net\): All: timm\.list_models\(\)$"),
            ("resnet18.nothing", False, r"Invalid pretrained tag \(nothing\) for resnet18: did you mean resnet18"),
            ("efficientnet_b8", True, "No pretrained weights exist for efficientnet_b8"),
        ],
    )
    def test_unknown_name_or_weights(self, name, pretrained, message):
        with pytest.raises(UserError, match=message):
            create_model(f"timm/{name}", pretrained=pretrained)

    def test_pretrained_weights_without_a_network(self, tmp_path, monkeypatch):
        constants = pytest.importorskip("huggingface_hub.constants")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(UserError, match=r"weights of timm/resnet10t are neither cached .* pretrained=False"):
            create_model("timm/resnet10t", pretrained=True)
