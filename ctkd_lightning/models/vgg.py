"""VGG networks with batch normalisation and one linear layer: vgg8, vgg11, vgg13, vgg16, vgg19."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn

from ctkd_lightning.models._base import ZooModel, init_weights

_WIDTHS = (64, 128, 256, 512, 512)


class VGG(ZooModel):
    """Five blocks of 3×3 convolutions; for small images the last max pooling and the hidden linear layers are left out.

    Simonyan and Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, 2014,
    https://arxiv.org/abs/1409.1556. Images of 64 pixels or more are halved once more, before the last block.

    Args:
        convolutions: how many each block has.
        num_classes: size of the output.
        in_channels: channels of the image.
    """

    feature_layers: Mapping[str, str] = {
        "stem": "relu0",
        "stage1": "relu1",
        "stage2": "relu2",
        "stage3": "relu3",
        "stage4": "relu4",
        "pooled": "flatten",
        "stage1_preact": "block1",
        "stage2_preact": "block2",
        "stage3_preact": "block3",
        "stage4_preact": "block4",
    }
    classifier_layer = "classifier"

    def __init__(
        self, convolutions: tuple[int, int, int, int, int], num_classes: int = 100, in_channels: int = 3
    ) -> None:
        super().__init__()
        inputs = (in_channels, *_WIDTHS)
        block0, block1, block2, block3, block4 = map(_block, inputs, _WIDTHS, convolutions)
        # a block ends before its activation, which is a layer of its own: both can be read by name
        self.block0, self.relu0, self.pool0 = block0, nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.block1, self.relu1, self.pool1 = block1, nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.block2, self.relu2, self.pool2 = block2, nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.block3, self.relu3, self.pool3 = block3, nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.block4, self.relu4, self.pool4 = block4, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(_WIDTHS[-1], num_classes)
        init_weights(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to logits (B, num_classes)."""
        large = x.shape[-2] >= 64
        x = self.pool0(self.relu0(self.block0(x)))
        x = self.pool1(self.relu1(self.block1(x)))
        x = self.pool2(self.relu2(self.block2(x)))
        x = self.relu3(self.block3(x))
        if large:
            x = self.pool3(x)
        x = self.pool4(self.relu4(self.block4(x)))
        return self.classifier(self.flatten(x))


def _block(in_channels: int, out_channels: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
        in_channels = out_channels
    return nn.Sequential(*layers[:-1])


MODELS: dict[str, Callable[..., ZooModel]] = {
    "vgg8": partial(VGG, (1, 1, 1, 1, 1)),
    "vgg11": partial(VGG, (1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, (2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, (2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, (2, 2, 4, 4, 4)),
}
