import copy
import pickle

import pytest
import torch
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.models.foreign import explained_download, name_features
from tests.models.reference import hooked_features


class Net(nn.Module):
    """A network that pools without a layer for it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.conv(x).mean(dim=(2, 3)))


@pytest.fixture
def named():
    torch.manual_seed(0)
    model = Net()
    name_features(model, stages=["conv"])
    return model


@pytest.mark.parametrize(
    "duplicate", [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_pooled_is_what_the_classifier_reads_also_in_copies(named, duplicate):
    model = duplicate(named)
    x = torch.randn(2, 3, 8, 8)
    features, logits = hooked_features(model, x)
    assert features["stage1"].shape == (2, 4, 6, 6)
    torch.testing.assert_close(features["pooled"], features["stage1"].mean(dim=(2, 3)))
    torch.testing.assert_close(model.fc(features["pooled"]), logits)


def test_a_copy_does_not_report_to_the_original(named):
    seen = []
    named.pooled.register_forward_hook(lambda *_: seen.append("original"))
    duplicate = copy.deepcopy(named)
    duplicate.pooled._forward_hooks.clear()
    duplicate(torch.randn(1, 3, 8, 8))
    assert not seen


def test_naming_adds_nothing_to_the_state_dict(named):
    assert list(named.state_dict()) == list(Net().state_dict())


def test_stem_and_stages_are_numbered_in_order(named):
    name_features(named, stages=["conv", "fc"], stem="conv", classifier_layer="fc")
    assert named.feature_layers == {"stem": "conv", "stage1": "conv", "stage2": "fc", "pooled": "pooled"}


def test_a_failed_download_says_what_to_do():
    with (
        pytest.raises(UserError, match=r"weights of x are neither cached .*\(no route\); .*pretrained=False"),
        explained_download("x"),
    ):
        raise OSError("no route\nand details")
