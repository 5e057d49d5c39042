"""Networks that give a class to each pixel: a small one of this package, and torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.models._download import explained_download
from ctkd_lightning.models._factory import explained_options

_LIBRARY = "torchvision/"


class SmallSegmenter(nn.Module):
    """Convolutions down to a few coarse maps and up again, with the finer maps beside them.

    After Ronneberger et al., *U-Net*, MICCAI 2015, https://arxiv.org/abs/1505.04597.

    Args:
        num_classes: C.
        channels: of the maps, from the finest, which has half the image's side, to the coarsest; each has half the side
            of the one before.

    Raises:
        UserError: channels that are none; in use, images whose sides are no multiples of the coarsest map's stride.

    Example:
        >>> SmallSegmenter(11, channels=(4, 8))(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 11, 16, 16])
    """

    feature_layers = {"last": "head"}  # noqa: RUF012
    classifier_layer = "head"

    def __init__(self, num_classes: int, channels: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        if not channels or any(width < 1 for width in channels):
            raise UserError(f"a segmenter's channels must be numbers above 0, found {list(channels)}")
        self.stem = _block(3, channels[0], stride=2)
        self.down = nn.ModuleList(_block(fine, coarse, stride=2) for fine, coarse in pairwise(channels))
        self.up = nn.ModuleList(_block(fine + coarse, fine) for fine, coarse in reversed([*pairwise(channels)]))
        self.head = nn.Conv2d(channels[0], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C, H, W) of images (B, 3, H, W)."""
        stride = 2 ** (len(self.down) + 1)
        if any(side % stride for side in images.shape[-2:]):
            raise UserError(
                f"the segmenter takes images whose sides are multiples of {stride}, found {tuple(images.shape)}: "
                "resize them, or give it fewer channels"
            )
        maps = [self.stem(images)]
        for block in self.down:
            maps.append(block(maps[-1]))
        x = maps.pop()
        for block in self.up:
            x = block(torch.cat((F.interpolate(x, scale_factor=2.0), maps.pop()), dim=1))
        logits: Tensor = F.interpolate(self.head(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return logits


def _block(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
        nn.Conv2d(out, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )


class _Out(nn.Module):
    """The logits of torchvision's segmenters, which give them by name."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)["out"]
        return logits


def available_segmenters() -> list[str]:
    """The names that :func:`create_segmenter` knows.

    Example:
        >>> available_segmenters()[0]
        'segmenter_small'
    """
    from torchvision.models import list_models, segmentation

    return ["segmenter_small", *(_LIBRARY + name for name in list_models(module=segmentation))]


def create_segmenter(name: str, num_classes: int, *, pretrained: bool = False, **options: Any) -> nn.Module:
    """Create a segmenter by name: from images (B, 3, H, W) to logits (B, C, H, W).

    Args:
        name: ``segmenter_small`` or ``torchvision/NAME``.
        num_classes: C, the background too.
        pretrained: refused; ``pretrained_backbone=True`` downloads ImageNet weights for torchvision's backbones.
        **options: of the network itself, such as ``channels``.

    Raises:
        UserError: an unknown name or option, or weights that do not exist or cannot be downloaded.

    Example:
        >>> create_segmenter("segmenter_small", 11, channels=(4, 8)).head.out_channels
        11
    """
    if name not in (known := available_segmenters()):
        raise UserError(f"unknown segmenter {name!r}: {suggest(name, known)}")
    if pretrained:
        raise UserError(
            f"{name} has no weights for other classes than their own: pass pretrained=False, then train it or load a "
            "checkpoint of it"
        )
    with explained_options(name):
        if not name.startswith(_LIBRARY):
            return SmallSegmenter(num_classes, **options)
        from torchvision.models import get_model

        backbone = "DEFAULT" if options.pop("pretrained_backbone", False) else None
        with explained_download(f"the backbone of {name}"):
            return _Out(
                get_model(
                    name.removeprefix(_LIBRARY),
                    weights=None,
                    weights_backbone=backbone,
                    num_classes=num_classes,
                    **options,
                )
            )
