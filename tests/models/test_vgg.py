import pytest
import torch

from ctkd_lightning.models import create_model
from tests.models.reference import hooked_features


@pytest.mark.parametrize(("size", "last_map"), [(32, 4), (48, 6), (64, 4), (128, 8)])
def test_large_images_are_halved_once_more(size, last_map):
    features, _ = hooked_features(create_model("vgg8").eval(), torch.zeros(1, 3, size, size))
    assert features["stage4"].shape == (1, 512, last_map, last_map)
