import pytest
import torch
from torch import nn

from ctkd_lightning.detection import find_detector
from ctkd_lightning.errors import UserError
from tests.detection.small import KINDS, made

FAMILIES = {"rcnn": "R-CNN", "retinanet": "RetinaNet", "fcos": "FCOS", "ssd": "SSD"}


@pytest.mark.parametrize("kind", KINDS)
def test_detectors_are_known_by_their_children_through_wrappers(kind):
    network = made(kind, 1)
    for wrapped in (network, torch.compile(network), nn.Sequential(network), nn.Sequential(torch.compile(network))):
        found = find_detector(wrapped)
        assert found.family == FAMILIES[kind]
        assert found.network is network


def test_torchvisions_own():
    from torchvision.models import detection

    for name, family in [
        ("maskrcnn_resnet50_fpn", "R-CNN"),
        ("keypointrcnn_resnet50_fpn", "R-CNN"),
        ("retinanet_resnet50_fpn", "RetinaNet"),
        ("fcos_resnet50_fpn", "FCOS"),
        ("ssd300_vgg16", "SSD"),
        ("ssdlite320_mobilenet_v3_large", "SSD"),
    ]:
        with torch.device("meta"):
            network = getattr(detection, name)(weights=None, weights_backbone=None)
        assert find_detector(network).family == family


def test_other_networks_are_none():
    assert find_detector(nn.Linear(2, 2)) is None
    assert find_detector(made("rcnn", 1).rpn) is None  # it has a head and anchors too


def test_several_detectors():
    with pytest.raises(UserError, match="holds 2 detectors, 0, 1"):
        find_detector(nn.Sequential(made("rcnn", 1), made("ssd", 1)))
