"""Networks by name: the CIFAR zoo, torchvision and timm."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
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
from ctkd_lightning.models._base import ZooModel
from ctkd_lightning.models.from_timm import create_timm, timm_classes
from ctkd_lightning.models.from_torchvision import (
    create_torchvision,
    list_torchvision,
    pretrained_options,
    torchvision_classes,
)

_FAMILIES = (resnet, wide_resnet, vgg, mobilenetv2, shufflenetv1, shufflenetv2, resnet50)
_ZOO: dict[str, Callable[..., ZooModel]] = {
    name: build for family in _FAMILIES for name, build in family.MODELS.items()
}
_SOURCES = {"weights", "weights_backbone", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
"""Options of the libraries that say where weights come from."""

_LIBRARIES: dict[str, Callable[..., nn.Module]] = {"torchvision": create_torchvision, "timm": create_timm}


def available_models() -> list[str]:
    """The names that :func:`create_model` knows: the CIFAR zoo's, then ``torchvision/NAME``.

    Those of ``timm/NAME`` are more than a thousand; ``timm.list_models()`` has them.

    Example:
        >>> available_models()[-1]
        'torchvision/wide_resnet50_2'
    """
    return [*sorted(_ZOO), *(f"torchvision/{name}" for name in list_torchvision())]


def create_model(
    name: str, num_classes: int = 100, *, pretrained: bool = False, in_channels: int = 3, **kwargs: Any
) -> nn.Module:
    """Create a network by name.

    Those of the zoo are :class:`~ctkd_lightning.models._base.ZooModel`: they say where their features are.

    Args:
        name: a name of the CIFAR zoo, ``torchvision/NAME`` or ``timm/NAME``.
        num_classes: size of the output, at least 2.
        pretrained: download published ImageNet weights; torchvision and timm only.
        in_channels: channels of the image.
        **kwargs: further options of the network itself, such as a wide residual network's ``dropout``.

    Raises:
        UserError: an unknown name or option, fewer than two classes, or weights that do not exist or cannot be
            downloaded.

    Example:
        >>> model = create_model("wrn_16_2", num_classes=10)
        >>> model.feature_layers["stage3"], model.classifier_layer
        ('block3', 'fc')
    """
    if num_classes < 2:
        raise UserError(f"num_classes must be at least 2, found {num_classes}")
    library, slash, foreign_name = name.partition("/")
    options = {"num_classes": num_classes, "in_channels": in_channels, **kwargs}
    with explained_options(name):
        if slash and library in _LIBRARIES:
            return _LIBRARIES[library](foreign_name, pretrained=pretrained, **options)
        return _zoo_builder(name, pretrained)(**options)


def pretrained_classes(name: str) -> int | None:
    """How many classes the published weights of a torchvision or timm network have; with others, its last layer is new.

    Example:
        >>> pretrained_classes("torchvision/resnet18")
        1000
    """
    library, _, foreign_name = name.partition("/")
    return timm_classes(foreign_name) if library == "timm" else torchvision_classes(foreign_name)


def options_without_download(name: str, *, pretrained: bool = False, **options: Any) -> dict[str, Any]:
    """The options that make the network of others again, without their ``pretrained``."""
    library, _, foreign_name = name.partition("/")
    return {**(pretrained_options(foreign_name) if pretrained and library == "torchvision" else {}), **options}


def check_source(name: object, options: Mapping[str, Any]) -> None:
    """Refuse a network whose description, in a file, would have it read or fetch something else.

    Raises:
        UserError: naming what it would.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w.\-]+(/[\w.\-]+)?", name):
        raise UserError(f"a file names the network {str(name)[:80]}: only networks of create_model are made from files")
    if wrong := sorted(_SOURCES & options.keys()):
        raise UserError(f"a file gives the network {name} the options {', '.join(wrong)}, which would load other files")


def _zoo_builder(name: str, pretrained: bool) -> Callable[..., ZooModel]:
    if name not in _ZOO:
        if name in list_torchvision():
            raise UserError(f"unknown model {name!r}: did you mean torchvision/{name} (or timm/{name})?")
        raise UserError(f"unknown model {name!r}: {suggest(name, _ZOO)}, torchvision/NAME, timm/NAME")
    if pretrained:
        raise UserError(
            f"{name} has no weights to download: pass pretrained=False, then train it or load a checkpoint of it"
        )
    return _ZOO[name]


@contextmanager
def explained_options(name: str) -> Iterator[None]:
    """Say in a line which option a network does not have.

    Raises:
        UserError: naming it.
    """
    try:
        yield
    except TypeError as error:
        if not any(text in str(error) for text in ("unexpected keyword argument", "multiple values for")):
            raise
        raise UserError(f"wrong option for model {name}: {error}; leave it out or see the model's class") from error
