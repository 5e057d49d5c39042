"""Faster R-CNNs that torchvision has the parts of: over feature pyramids of several networks, and small ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from torchvision.models.detection import FasterRCNN

# torchvision takes as long to import as torch: it waits until one of its networks is asked for

_ROI = 5  # rows and columns that the small detector pools a proposal to


def over_resnet(network: str, num_classes: int, *, pretrained_backbone: bool = False, **options: Any) -> FasterRCNN:
    """A Faster R-CNN over the feature pyramid of a residual network (Lin et al., CVPR 2017).

    With ImageNet weights batch normalisation is frozen, and so are the stem and the first stage, as in Detectron2's
    configurations of the same networks.

    Args:
        network: torchvision's name, such as ``"resnet18"``.
        num_classes: of the objects; the background's is one more.
        pretrained_backbone: whether the residual network has torchvision's ImageNet weights.
        **options: of torchvision's ``FasterRCNN``, such as ``min_size``.
    """
    from torchvision.models import get_model_weights
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    weights = get_model_weights(network).IMAGENET1K_V1 if pretrained_backbone else None
    how = {"trainable_layers": 3} if weights else {"trainable_layers": 5, "norm_layer": nn.BatchNorm2d}
    return FasterRCNN(resnet_fpn_backbone(backbone_name=network, weights=weights, **how), num_classes + 1, **options)


def over_mobilenet_v2(num_classes: int, *, pretrained_backbone: bool = False, **options: Any) -> FasterRCNN:
    """A Faster R-CNN over the feature pyramid of MobileNetV2, of its last maps at the strides 4, 8, 16 and 32.

    Arguments likewise; with ImageNet weights what is below stride 4 is frozen.
    """
    from torchvision.models import MobileNet_V2_Weights, mobilenet_v2
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops import FrozenBatchNorm2d

    weights = MobileNet_V2_Weights.IMAGENET1K_V1 if pretrained_backbone else None
    blocks = mobilenet_v2(weights=weights, norm_layer=FrozenBatchNorm2d if weights else nn.BatchNorm2d).features
    if weights:
        blocks[:2].requires_grad_(False)
    last = {"3": 24, "6": 32, "13": 96, "17": 320}  # of each stride, and its channels
    names = {block: str(level) for level, block in enumerate(last)}
    backbone = BackboneWithFPN(blocks, names, list(last.values()), out_channels=256)
    return FasterRCNN(backbone, num_classes + 1, **options)


def small(
    num_classes: int,
    *,
    channels: Sequence[int] = (16, 32, 64),
    convolutions: int = 3,
    box_features: int = 256,
    proposals: int = 48,
    image_size: int = 128,
    anchor_sizes: Sequence[int] = (12, 18, 26),
    anchor_ratios: Sequence[float] = (1.0, 1.5),
    **options: Any,
) -> FasterRCNN:
    """A Faster R-CNN for small images: one map at stride 4, few proposals.

    Args:
        num_classes: of the objects; the background's is one more.
        channels: of its three stages, of which the first two halve height and width.
        convolutions: of each stage.
        box_features: of the two layers that score a proposal.
        proposals: per image, in training and evaluation.
        image_size: of the longer side, pixels.
        anchor_sizes: pixels.
        anchor_ratios: height by width.
        **options: of torchvision's ``FasterRCNN``, such as ``box_nms_thresh``.
    """
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    sampled = {"box_batch_size_per_image": proposals, "box_detections_per_img": proposals}
    kept = {f"rpn_{when}_nms_top_n_{mode}": count for mode in ("train", "test")
            for when, count in (("pre", 4 * proposals), ("post", proposals))}  # fmt: skip
    return FasterRCNN(
        SmallBackbone(channels, convolutions),
        rpn_anchor_generator=AnchorGenerator((tuple(anchor_sizes),), (tuple(anchor_ratios),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=_ROI, sampling_ratio=2),
        box_head=TwoMLPHead(channels[-1] * _ROI**2, box_features),
        box_predictor=FastRCNNPredictor(box_features, num_classes + 1),
        **{"min_size": image_size, "max_size": image_size, **sampled, **kept, **options},
    )


class SmallBackbone(nn.Sequential):
    """Three stages of convolutions, batch normalisation and ReLU: (B, 3, H, W) to (B, C, H / 4, W / 4).

    Args:
        channels: of the stages.
        convolutions: of each.
    """

    def __init__(self, channels: Sequence[int], convolutions: int) -> None:
        stages, before = [], 3
        for stage, width in enumerate(channels):
            layers: list[nn.Module] = []
            for number in range(convolutions):
                stride = 2 if stage < 2 and number == 0 else 1
                layers += [nn.Conv2d(before, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            stages.append(nn.Sequential(*layers))
        super().__init__(*stages)
        self.out_channels = before  # which torchvision asks for

    def forward(self, images: Tensor) -> Tensor:
        """The last stage's map."""
        found: Tensor = super().forward(images)
        return found


MODELS: dict[str, Callable[..., FasterRCNN]] = {
    "faster_rcnn_small": small,
    "faster_rcnn_mobilenet_v2": over_mobilenet_v2,
    **{f"faster_rcnn_{name}": partial(over_resnet, name) for name in ("resnet18", "resnet34", "resnet50", "resnet101")},
}
"""By name."""
