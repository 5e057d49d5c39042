"""ShuffleNet with three groups for small images: ShuffleV1."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctkd_lightning.models._base import ZooModel, conv1x1, conv3x3

_GROUPS = 3
_STEM_CHANNELS = 24
_STAGES = ((240, 4), (480, 8), (960, 4))  # channels, blocks


class ShuffleUnit(nn.Module):
    """Pointwise group convolution, shuffle, depthwise convolution, pointwise group convolution.

    At stride 2 the pooled input is concatenated, else the input is added.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.downsamples = stride == 2
        if self.downsamples:
            out_channels -= in_channels  # the pooled input has the rest
        hidden = out_channels // 4
        # the stem has too few channels to divide
        groups = 1 if in_channels == _STEM_CHANNELS else _GROUPS
        self.conv1 = conv1x1(in_channels, hidden, groups=groups)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.shuffle1 = nn.ChannelShuffle(groups)
        self.conv2 = conv3x3(hidden, hidden, stride, groups=hidden)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = conv1x1(hidden, out_channels, groups=_GROUPS)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1) if self.downsamples else nn.Identity()
        self.relu = nn.ReLU(inplace=True)  # a layer, so that the map before it can be read by name

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H / stride, W / stride)."""
        out = self.shuffle1(F.relu(self.bn1(self.conv1(x)), inplace=True))
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        shortcut = self.shortcut(x)
        return self.relu(torch.cat([out, shortcut], dim=1) if self.downsamples else out + shortcut)


class ShuffleNetV1(ZooModel):
    """ShuffleNet 1×, three groups, with a pointwise stem that keeps the size.

    Zhang et al., *ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices*, 2017,
    https://arxiv.org/abs/1707.01083. As in the zoo, the depthwise convolution too is followed by an activation.

    Args:
        num_classes: size of the output.
        in_channels: channels of the image.
    """

    feature_layers: Mapping[str, str] = {
        "stem": "relu",
        "stage1": "layer1",
        "stage2": "layer2",
        "stage3": "layer3",
        "pooled": "flatten",
        "stage1_preact": "layer1.3.relu:input",
        "stage2_preact": "layer2.7.relu:input",
        "stage3_preact": "layer3.3.relu:input",
    }
    classifier_layer = "linear"

    def __init__(self, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = conv1x1(in_channels, _STEM_CHANNELS)
        self.bn1 = nn.BatchNorm2d(_STEM_CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        (first, _), (second, _), (third, _) = _STAGES
        self.layer1 = _stage(_STEM_CHANNELS, *_STAGES[0])
        self.layer2 = _stage(first, *_STAGES[1])
        self.layer3 = _stage(second, *_STAGES[2])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(third, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to logits (B, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.flatten(self.avgpool(x)))


def _stage(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    first = ShuffleUnit(in_channels, out_channels, stride=2)
    return nn.Sequential(first, *(ShuffleUnit(out_channels, out_channels, 1) for _ in range(blocks - 1)))


MODELS: dict[str, Callable[..., ZooModel]] = {"ShuffleV1": ShuffleNetV1}
