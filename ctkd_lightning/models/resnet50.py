"""The 50-layer bottleneck residual network for small images: ResNet50."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from ctkd_lightning.models._base import ZooModel, conv1x1, conv3x3, init_weights

_EXPANSION = 4


class Bottleneck(nn.Module):
    """Reduce, convolve, expand, and a shortcut, projected where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * _EXPANSION
        self.conv1 = conv1x1(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))
        self.relu = nn.ReLU(inplace=True)  # a layer, so that the sum before it can be read by name

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, 4 · channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return self.relu(out + self.shortcut(x))


class ResNet50(ZooModel):
    """ResNet-50 whose 3×3 stem keeps the size of the image.

    He et al., *Deep Residual Learning for Image Recognition*, 2015, https://arxiv.org/abs/1512.03385. The stride of a
    stage is in the 3×3 convolution of its first block.

    Args:
        num_classes: size of the output.
        in_channels: channels of the image.
    """

    feature_layers: Mapping[str, str] = {
        "stem": "relu",
        "stage1": "layer1",
        "stage2": "layer2",
        "stage3": "layer3",
        "stage4": "layer4",
        "pooled": "flatten",
        "stage1_preact": "layer1.2.relu:input",
        "stage2_preact": "layer2.3.relu:input",
        "stage3_preact": "layer3.5.relu:input",
        "stage4_preact": "layer4.2.relu:input",
    }
    classifier_layer = "linear"

    def __init__(self, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(64, 64, blocks=3, stride=1)
        self.layer2 = _stage(256, 128, blocks=4, stride=2)
        self.layer3 = _stage(512, 256, blocks=6, stride=2)
        self.layer4 = _stage(1024, 512, blocks=3, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(512 * _EXPANSION, num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to logits (B, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(self.flatten(self.avgpool(x)))


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, channels, stride)
    rest = (Bottleneck(channels * _EXPANSION, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


MODELS: dict[str, Callable[..., ZooModel]] = {"ResNet50": ResNet50}
