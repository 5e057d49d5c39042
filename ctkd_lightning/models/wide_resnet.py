"""Wide residual networks: wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from ctkd_lightning.models._base import ZooModel, conv1x1, conv3x3, init_weights


class PreActivationBlock(nn.Module):
    """Normalise, rectify, convolve, twice; the shortcut is projected where the number of channels changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.dropout = dropout
        self.projects = in_channels != out_channels
        # a name of the zoo's checkpoints
        self.convShortcut = conv1x1(in_channels, out_channels, stride) if self.projects else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H / stride, W / stride)."""
        activated = F.relu(self.bn1(x), inplace=True)
        out = F.relu(self.bn2(self.conv1(activated)), inplace=True)
        out = F.dropout(out, self.dropout, self.training)
        # the projection reads the activated input, the identity the raw one
        return self.conv2(out) + self.convShortcut(activated if self.projects else x)


class WideResNet(ZooModel):
    """The wide residual network: three stages of (depth − 4) / 6 blocks, ``width`` times as wide as the plain one.

    Zagoruyko and Komodakis, *Wide Residual Networks*, 2016, https://arxiv.org/abs/1605.07146. The stages' features
    are before the activation, as the next block reads them.

    Args:
        depth: weighted layers, 6n + 4.
        width: factor on the channels 16, 32, 64 of the stages.
        num_classes: size of the output.
        in_channels: channels of the image.
        dropout: fraction of activations dropped between the two convolutions of a block.
    """

    feature_layers: Mapping[str, str] = {
        "stem": "conv1",
        "stage1": "block1",
        "stage2": "block2",
        "stage3": "block3",
        "pooled": "flatten",
        # the normalisation that reads the stage, before its activation
        "stage1_preact": "block2.layer.0.bn1",
        "stage2_preact": "block3.layer.0.bn1",
        "stage3_preact": "bn1",
    }
    classifier_layer = "fc"

    def __init__(
        self, depth: int, width: int, num_classes: int = 100, in_channels: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        first, second, third = 16 * width, 32 * width, 64 * width
        self.conv1 = conv3x3(in_channels, 16)
        self.block1 = _stage(16, first, blocks, stride=1, dropout=dropout)
        self.block2 = _stage(first, second, blocks, stride=2, dropout=dropout)
        self.block3 = _stage(second, third, blocks, stride=2, dropout=dropout)
        self.bn1 = nn.BatchNorm2d(third)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(third, num_classes)
        init_weights(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to logits (B, num_classes)."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        x = self.relu(self.bn1(x))
        return self.fc(self.flatten(self.avgpool(x)))


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int, dropout: float) -> nn.Sequential:
    first = PreActivationBlock(in_channels, out_channels, stride, dropout)
    rest = (PreActivationBlock(out_channels, out_channels, 1, dropout) for _ in range(blocks - 1))
    # the zoo's checkpoints say block1.layer.0
    return nn.Sequential(OrderedDict(layer=nn.Sequential(first, *rest)))


MODELS: dict[str, Callable[..., ZooModel]] = {
    f"wrn_{depth}_{width}": partial(WideResNet, depth, width) for depth in (16, 40) for width in (1, 2)
}
