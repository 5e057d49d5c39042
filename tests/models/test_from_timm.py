import ast
import sys
from pathlib import Path

import pytest
import torch

import ctkd_lightning
from ctkd_lightning.errors import UserError
from ctkd_lightning.models import create_model
from tests.models.reference import hooked_features


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
    @pytest.mark.parametrize(
        ("name", "stem", "stages", "pooled"),
        [
            ("resnet10t", "act1", 4, 512),
            ("mobilenetv3_small_050", "bn1", 4, 1024),
            ("convnext_atto", None, 4, 320),
        ],
    )
    def test_roles(self, name, stem, stages, pooled):
        model = create_model(f"timm/{name}", num_classes=7, in_channels=1).eval()
        features, logits = hooked_features(model, torch.randn(2, 1, 64, 64))
        assert model.feature_layers.get("stem") == stem
        assert sum(role.startswith("stage") for role in features) == stages
        sizes = [feature.shape[-1] for role, feature in features.items() if role.startswith("stage")]
        assert sizes == sorted(sizes, reverse=True)
        assert features["pooled"].shape == (2, pooled)
        torch.testing.assert_close(model.get_submodule(model.classifier_layer)(features["pooled"]), logits)

    def test_distilled_transformer_with_two_heads(self):
        model = create_model("timm/deit_tiny_distilled_patch16_224", num_classes=7, img_size=32).eval()
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)

    @pytest.mark.parametrize(
        ("name", "pretrained", "message"),
        [
            ("resnet19", False, r"Unknown model \(resnet19\); near names: resnet18"),
            ("resnet18.nothing", False, r"Invalid pretrained tag \(nothing\) for resnet18; near names: resnet18"),
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
