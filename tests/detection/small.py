"""Detectors of a few channels, images of some pixels, and a task that knows nothing of distillation."""

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

SIZE = 32
CLASSES = 4  # the background included


def body(channels):
    network = nn.Sequential(
        nn.Conv2d(3, channels, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, stride=2, padding=1),
        nn.ReLU(),
    )
    network.out_channels = channels
    return network


def transform():
    return {"min_size": SIZE, "max_size": SIZE}


def rcnn(channels=4, kind=FasterRCNN, classes=CLASSES, **settings):
    heads = {"box_roi_pool": MultiScaleRoIAlign(["0"], output_size=3, sampling_ratio=1)}
    if kind is MaskRCNN:
        heads["mask_roi_pool"] = MultiScaleRoIAlign(["0"], output_size=4, sampling_ratio=1)
    if kind is KeypointRCNN:
        heads |= {"keypoint_roi_pool": MultiScaleRoIAlign(["0"], output_size=4, sampling_ratio=1), "num_keypoints": 2}
    return kind(
        body(channels),
        classes,
        rpn_anchor_generator=AnchorGenerator(((8, 16),), ((1.0,),)),
        rpn_pre_nms_top_n_train=32,
        rpn_post_nms_top_n_train=16,
        box_batch_size_per_image=12,
        **{**transform(), **heads, **settings},
    )


def mask_rcnn(channels=4, **settings):
    return rcnn(channels, MaskRCNN, **settings)


def keypoint_rcnn(channels=4, **settings):
    return rcnn(channels, KeypointRCNN, **settings)


def anchors():
    return AnchorGenerator(((8, 12),), ((0.5, 1.0),))


def retinanet(channels=4, classes=CLASSES, **settings):
    generator = settings.pop("anchor_generator", None) or anchors()
    head = RetinaNetHead(channels, generator.num_anchors_per_location()[0], classes, norm_layer=None)
    return RetinaNet(body(channels), classes, anchor_generator=generator, head=head, **{**transform(), **settings})


def fcos(channels=32, classes=CLASSES, **settings):  # GroupNorm of 32 groups
    generator = AnchorGenerator(((8,),), ((1.0,),))
    return FCOS(body(channels), classes, anchor_generator=generator, **{**transform(), **settings})


def ssd(channels=4, classes=CLASSES, **settings):
    settings = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, **settings}
    backbone = body(channels)
    backbone.out_channels = [channels]
    return SSD(backbone, DefaultBoxGenerator([[2]], scales=[0.3, 0.5]), (SIZE, SIZE), classes, **settings)


KINDS = {"rcnn": rcnn, "retinanet": retinanet, "fcos": fcos, "ssd": ssd}


def made(kind, seed, **settings):
    """A detector whose scores are far enough from its biases to say something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = KINDS[kind](**settings) if isinstance(kind, str) else kind(**settings)
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and ("cls" in name or "classification_head" in name):
                nn.init.normal_(parameter, std=0.3)
    return network


def scenes(count=8, seed=0, dtype=torch.float32, empty=()):
    """Images and targets: two boxes each, but for those that are to have none."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        boxes = 0 if number in empty else 2
        corners = torch.randint(0, SIZE - 16, (boxes, 2), generator=generator)
        sides = torch.randint(8, 16, (boxes, 2), generator=generator)
        found.append(
            (
                torch.rand(3, SIZE, SIZE, generator=generator, dtype=torch.float64).to(dtype),
                {
                    "boxes": torch.cat([corners, corners + sides], dim=1).to(dtype),
                    "labels": torch.randint(1, CLASSES, (boxes,), generator=generator),
                },
            )
        )
    return found


def with_parts(target):
    """Masks and keypoints, for the R-CNNs that are trained with them."""
    boxes = target["boxes"]
    masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.uint8)
    points = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes.new_ones(len(boxes), 1)], dim=1)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    return {**target, "masks": masks, "keypoints": points[:, None].repeat(1, 2, 1)}


def collated(samples):
    return [image for image, _ in samples], [target for _, target in samples]


def loader(batch_size=2, **settings):
    return DataLoader(scenes(**settings), batch_size=batch_size, collate_fn=collated)


class Detecting(LightningModule):
    """Trains any detector."""

    def __init__(self, model, rate=0.01):
        super().__init__()
        self.model, self.rate = model, rate

    def training_step(self, batch, batch_idx):
        images, targets = batch
        return sum(self.model(images, targets).values())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9)


class AsTheyAre(GeneralizedRCNNTransform):
    """Neither resizes nor normalises, as torchgeo's."""

    def __init__(self):
        super().__init__(min_size=0, max_size=0, image_mean=[0], image_std=[1])

    def resize(self, image, target=None):
        return image, target
