import pytest
import torch
from torchvision.models import detection

from ctkd_lightning.data import DigitScenes
from ctkd_lightning.errors import UserError
from ctkd_lightning.models import available_detectors, create_detector

SMALL = {"min_size": 64, "max_size": 64}


def test_a_small_one_trains_and_finds():
    data = DigitScenes(train_size=2, val_size=1, test_size=1, batch_size=2)
    images, objects = next(iter(data.train_dataloader()))
    detector = create_detector("faster_rcnn_small", 10, channels=(4, 8, 16), convolutions=1, box_features=64)
    losses = detector(images, objects)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    found = detector.eval()(images)
    assert [sorted(each) for each in found] == [["boxes", "labels", "scores"]] * 2


def test_the_size_of_the_digits_pair():
    """Counted by hand: convolutions and norms, the proposals' head (6 anchors), two layers and the predictor."""

    def count(channels, convolutions, features):
        total, before = 0, 3
        for width in channels:
            for _ in range(convolutions):
                total, before = total + 9 * before * width + 2 * width, width
        total += 9 * before**2 + before + 6 * (before + 1) + 24 * (before + 1)
        return total + (25 * before + 1) * features + (features + 1) * features + (features + 1) * (11 + 44)

    for channels, convolutions, features in (((16, 32, 64), 2, 256), ((4, 8, 16), 1, 64)):
        made = create_detector(
            "faster_rcnn_small", 10, channels=channels, convolutions=convolutions, box_features=features
        )
        assert sum(p.numel() for p in made.parameters()) == count(channels, convolutions, features)


def test_its_map_has_a_quarter_of_the_image():
    backbone = create_detector("faster_rcnn_small", 3).backbone
    assert backbone(torch.zeros(1, 3, 128, 96)).shape == (1, 64, 32, 24)


def test_a_pyramid_over_resnet50_is_torchvisions():
    theirs = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
    ours = create_detector("faster_rcnn_resnet50", 3)
    shapes = {name: p.shape for name, p in theirs.named_parameters()}
    assert {name: p.shape for name, p in ours.named_parameters()} == shapes
    assert all(p.requires_grad for p in ours.parameters())
    assert not any("Frozen" in type(part).__name__ for part in ours.modules())


@pytest.mark.parametrize(("name", "widths"), [("resnet18", [64, 128, 256, 512]), ("mobilenet_v2", [24, 32, 96, 320])])
def test_the_pyramid_has_four_strides(name, widths):
    detector = create_detector(f"faster_rcnn_{name}", 2, **SMALL).eval()
    maps = detector.backbone(torch.zeros(1, 3, 64, 64))
    assert [tuple(each.shape) for each in maps.values()] == [
        (1, 256, size, size) for size in (16, 8, 4, 2, 1)
    ]  # of the strides 4 to 32, and the last one pooled
    inner = [block[0].in_channels for block in detector.backbone.fpn.inner_blocks]
    assert inner == widths
    assert detector.roi_heads.box_predictor.cls_score.out_features == 3


def test_torchvisions_by_name():
    made = create_detector("torchvision/ssdlite320_mobilenet_v3_large", 4)
    assert isinstance(made, detection.ssd.SSD)
    assert made.head.classification_head.num_columns == 5
    assert "torchvision/fcos_resnet50_fpn" in available_detectors()


def test_pretrained_weights_are_for_their_own_classes(monkeypatch):
    with pytest.raises(UserError, match=r"COCO's 90 category ids, and the data have 80 classes.*data\.labels=ids"):
        create_detector("torchvision/fasterrcnn_resnet50_fpn", 80, pretrained=True)

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(UserError, match="neither cached nor could they be downloaded"):
        create_detector("torchvision/fasterrcnn_resnet50_fpn", 90, pretrained=True)
    with pytest.raises(UserError, match="neither cached nor could they be downloaded"):
        create_detector("faster_rcnn_resnet18", 3, pretrained_backbone=True)


@pytest.mark.parametrize(
    ("name", "classes", "options", "message"),
    [
        ("faster_rcnn_smal", 3, {}, "did you mean faster_rcnn_small"),
        ("torchvision/resnet18", 3, {}, "torchvision has no detector 'resnet18'"),
        ("faster_rcnn_small", 0, {}, "num_classes=0"),
        ("faster_rcnn_small", 3, {"pretrained": True}, "no weights to download as a whole"),
        ("faster_rcnn_small", 3, {"colour": 1}, "wrong option for model faster_rcnn_small: it has no colour"),
        ("torchvision/fcos_resnet50_fpn", 3, {"colour": 1}, "wrong option for model torchvision/fcos_resnet50_fpn"),
    ],
)
def test_what_cannot_be(name, classes, options, message):
    with pytest.raises(UserError, match=message):
        create_detector(name, classes, **options)
