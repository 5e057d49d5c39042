"""ShuffleNetV2 1× for small images: ShuffleV2."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctkd_lightning.models._base import ZooModel, conv1x1, conv3x3

_STEM_CHANNELS = 24
_LAST_CHANNELS = 1024
_STAGES = ((116, 4), (232, 8), (464, 4))  # channels, blocks


class HalfReLU(nn.Module):
    """Rectify the second half of the channels, in place; the first half passes."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to itself."""
        half = x.shape[1] // 2
        F.relu(x.narrow(1, half, half), inplace=True)
        return x


class SplitUnit(nn.Module):
    """One half of the channels passes untouched, the other through three convolutions; then both are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv1x1(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv3x3(half, half, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(half, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu = HalfReLU()
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        passed, out = x.chunk(2, dim=1)
        out = F.relu(self.bn1(self.conv1(out)), inplace=True)
        out = self.bn2(self.conv2(out))
        out = self.bn3(self.conv3(out))
        return self.shuffle(self.relu(torch.cat([passed, out], dim=1)))


class DownsamplingUnit(nn.Module):
    """Two branches, each of which halves the size and gives half of the new channels; then both are shuffled."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv1 = conv3x3(in_channels, in_channels, stride=2, groups=in_channels)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = conv1x1(in_channels, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(in_channels, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv3x3(half, half, stride=2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv1x1(half, half)
        self.bn5 = nn.BatchNorm2d(half)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H / 2, W / 2)."""
        left = self.bn1(self.conv1(x))
        left = F.relu(self.bn2(self.conv2(left)), inplace=True)
        right = F.relu(self.bn3(self.conv3(x)), inplace=True)
        right = self.bn4(self.conv4(right))
        right = F.relu(self.bn5(self.conv5(right)), inplace=True)
        return self.shuffle(torch.cat([left, right], dim=1))


class ShuffleNetV2(ZooModel):
    """ShuffleNetV2 1×, with a pointwise stem that keeps the size.

    Ma et al., *ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design*, 2018,
    https://arxiv.org/abs/1807.11164.

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
        self.conv2 = conv1x1(third, _LAST_CHANNELS)
        self.bn2 = nn.BatchNorm2d(_LAST_CHANNELS)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(_LAST_CHANNELS, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to logits (B, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return self.linear(self.flatten(self.avgpool(x)))


def _stage(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    first = DownsamplingUnit(in_channels, out_channels)
    return nn.Sequential(first, *(SplitUnit(out_channels) for _ in range(blocks - 1)))


MODELS: dict[str, Callable[..., ZooModel]] = {"ShuffleV2": ShuffleNetV2}
