"""Residual networks for small images: resnet8 to resnet110, and the four times wider resnet8x4 and resnet32x4."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from ctkd_lightning.models._base import ZooModel, conv1x1, conv3x3, init_weights


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))
        self.relu = nn.ReLU(inplace=True)  # a layer, so that the sum before it can be read by name

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.downsample(x))


class ResNet(ZooModel):
    """The CIFAR residual network: three stages of (depth − 2) / 6 blocks.

    He et al., *Deep Residual Learning for Image Recognition*, 2015, section 4.2, https://arxiv.org/abs/1512.03385.

    Args:
        depth: weighted layers, 6n + 2.
        widths: channels of the stem and of the three stages.
        num_classes: size of the output.
        in_channels: channels of the image.
    """

    classifier_layer = "fc"

    def __init__(
        self,
        depth: int,
        widths: tuple[int, int, int, int] = (16, 16, 32, 64),
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        stem, first, second, third = widths
        self.conv1 = conv3x3(in_channels, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(stem, first, blocks, stride=1)
        self.layer2 = _stage(first, second, blocks, stride=2)
        self.layer3 = _stage(second, third, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(third, num_classes)
        self.feature_layers = {
            "stem": "relu",
            "stage1": "layer1",
            "stage2": "layer2",
            "stage3": "layer3",
            "pooled": "flatten",
            "stage1_preact": f"layer1.{blocks - 1}.relu:input",
            "stage2_preact": f"layer2.{blocks - 1}.relu:input",
            "stage3_preact": f"layer3.{blocks - 1}.relu:input",
        }
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to logits (B, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.flatten(self.avgpool(x)))


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))


MODELS: dict[str, Callable[..., ZooModel]] = {
    **{f"resnet{depth}": partial(ResNet, depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": partial(ResNet, depth, (32, 64, 128, 256)) for depth in (8, 32)},
}
