"""MobileNetV2 at half width for small images: MobileNetV2."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from ctkd_lightning.models._base import ZooModel, conv1x1, conv3x3, init_weights

# expansion, channels at full width, blocks, stride of the first block; one row a stage
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_LAST_CHANNELS = 1280


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; with a shortcut where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            conv1x1(in_channels, hidden),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            conv3x3(hidden, hidden, stride, groups=hidden),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            conv1x1(hidden, out_channels),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H / stride, W / stride)."""
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(ZooModel):
    """MobileNetV2, with two halvings fewer than for ImageNet.

    Sandler et al., *MobileNetV2: Inverted Residuals and Linear Bottlenecks*, 2018, https://arxiv.org/abs/1801.04381.
    As in the zoo, the activation is ReLU instead of ReLU6 and the last layer keeps its 1280 channels at half width.

    Args:
        num_classes: size of the output.
        in_channels: channels of the image.
        width: factor on the channels.
    """

    feature_layers: Mapping[str, str] = {
        "stem": "conv1",
        "stage1": "blocks.1",
        "stage2": "blocks.2",
        "stage3": "blocks.4",
        "stage4": "blocks.6",
        "pooled": "flatten",
        # no activation ends a stage
        "stage1_preact": "blocks.1",
        "stage2_preact": "blocks.2",
        "stage3_preact": "blocks.4",
        "stage4_preact": "blocks.6",
    }
    classifier_layer = "classifier.0"

    def __init__(self, num_classes: int = 100, in_channels: int = 3, width: float = 0.5) -> None:
        super().__init__()
        channels = int(32 * width)
        self.conv1 = nn.Sequential(
            conv3x3(in_channels, channels, stride=2), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.blocks = nn.Sequential()
        for expansion, full_channels, blocks, stride in _STAGES:
            out_channels = int(full_channels * width)
            self.blocks.append(_stage(channels, out_channels, blocks, stride, expansion))
            channels = out_channels
        last = int(_LAST_CHANNELS * max(1.0, width))
        self.conv2 = nn.Sequential(conv1x1(channels, last), nn.BatchNorm2d(last), nn.ReLU(inplace=True))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(nn.Linear(last, num_classes))
        init_weights(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to logits (B, num_classes)."""
        x = self.conv2(self.blocks(self.conv1(x)))
        return self.classifier(self.flatten(self.avgpool(x)))


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int, expansion: int) -> nn.Sequential:
    first = InvertedResidual(in_channels, out_channels, stride, expansion)
    rest = (InvertedResidual(out_channels, out_channels, 1, expansion) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


MODELS: dict[str, Callable[..., ZooModel]] = {"MobileNetV2": MobileNetV2}
