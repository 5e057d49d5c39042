"""Networks by name: the CIFAR zoo, torchvision and timm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.models import (
    mobilenetv2,
    resnet,
    resnet50,
    shufflenetv1,
    shufflenetv2,
    vgg,
    wide_resnet,
)
from ctkd_lightning.models.base import ZooModel

_FAMILIES = (resnet, wide_resnet, vgg, mobilenetv2, shufflenetv1, shufflenetv2, resnet50)
_ZOO: dict[str, Callable[..., ZooModel]] = {
    name: build for family in _FAMILIES for name, build in family.MODELS.items()
}


def available_models() -> list[str]:
    """The names of the CIFAR zoo, sorted."""
    return sorted(_ZOO)


def create_model(
    name: str, num_classes: int = 100, *, pretrained: bool = False, in_channels: int = 3, **kwargs: Any
) -> nn.Module:
    """Create a network by name.

    Args:
        name: one of :func:`available_models`.
        num_classes: size of the output, at least 2.
        pretrained: published weights.
        in_channels: channels of the image.
        **kwargs: further options of the network itself.

    Raises:
        UserError: an unknown name or option, or fewer than two classes.
    """
    if num_classes < 2:
        raise UserError(f"num_classes must be at least 2, found {num_classes}")
    if name not in _ZOO:
        raise UserError(f"unknown model {name!r}: {suggest(name, _ZOO)}")
    if pretrained:
        raise UserError(f"{name} has no published weights to download: pass pretrained=False and use load_weights")
    with _explained(name):
        return _ZOO[name](num_classes=num_classes, in_channels=in_channels, **kwargs)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise UserError(f"model {name}: {error}; see its class for the options") from error
