"""Networks of torchvision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import nn

from ctkd_lightning._files import locked
from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.features._head import find_classifier
from ctkd_lightning.models._checkpoint import read_pickle
from ctkd_lightning.models._download import explained_download

# torchvision takes as long to import as torch: it waits until one of its networks is asked for


def list_torchvision() -> list[str]:
    """The names of torchvision's classifiers, sorted."""
    from torchvision import models

    return models.list_models(module=models)


def create_torchvision(name: str, num_classes: int, *, pretrained: bool, in_channels: int, **kwargs: Any) -> nn.Module:
    """Create a classifier of torchvision, with its recommended weights where they are asked for.

    The auxiliary classifiers of GoogLeNet and Inception are left out: the output is always one tensor of logits.

    Args:
        name: one of :func:`list_torchvision`.
        num_classes: size of the output; a pretrained network with another size gets a new last layer.
        pretrained: load torchvision's ``DEFAULT`` weights.
        in_channels: channels of the image; where they are not 3, the first convolution is a new one.
        **kwargs: for torchvision's builder.

    Raises:
        UserError: an unknown name, weights that cannot be downloaded, or weights for another number of channels.
    """
    from torchvision import models

    names = list_torchvision()
    if name not in names:
        raise UserError(f"torchvision has no classifier {name!r}: {suggest(name, names, 'All: available_models()')}")
    if name in ("googlenet", "inception_v3"):
        kwargs = {"aux_logits": False, **({} if pretrained else {"init_weights": True}), **kwargs}
    if pretrained:
        model = _pretrained(name, num_classes, in_channels, **kwargs)
    else:
        model = models.get_model(name, weights=None, num_classes=num_classes, **kwargs)
    if in_channels != 3:
        _replace_first_convolution(model, in_channels)
    return model


def torchvision_classes(name: str) -> int:
    """How many classes the weights have that ``pretrained`` loads."""
    from torchvision import models

    return len(models.get_model_weights(name).DEFAULT.meta["categories"])


def list_torchvision_detectors() -> list[str]:
    """The names of torchvision's detectors, sorted."""
    from torchvision import models

    return models.list_models(module=models.detection)


def torchvision_builder(name: str) -> Callable[..., nn.Module]:
    """The function that makes a network of torchvision."""
    from torchvision import models

    return models.get_model_builder(name)


def create_torchvision_detector(name: str, num_classes: int, *, pretrained: bool, **kwargs: Any) -> nn.Module:
    """Create a detector of torchvision, with its recommended COCO weights where they are asked for.

    Args:
        name: one of :func:`list_torchvision_detectors`.
        num_classes: of the objects, without the background.
        pretrained: load torchvision's ``DEFAULT`` weights.
        **kwargs: for torchvision's builder; ``pretrained_backbone`` loads ImageNet weights for the backbone alone.

    Raises:
        UserError: an unknown name, weights that cannot be downloaded or are for other classes.
    """
    from torchvision import models

    names = list_torchvision_detectors()
    if name not in names:
        raise UserError(f"torchvision has no detector {name!r}: {suggest(name, names)}")
    backbone = "DEFAULT" if kwargs.pop("pretrained_backbone", False) else None
    if pretrained:
        weights = models.get_model_weights(name).DEFAULT
        categories = len(weights.meta["categories"]) - 1  # the first is the background
        if categories != num_classes:
            raise UserError(
                f"the pretrained weights of torchvision/{name} are for COCO's {categories} category ids, and the data "
                f"have {num_classes} classes: with data=coco set data.labels=ids, or train it or load a checkpoint"
            )
        with _published(name, weights):
            return models.get_model(name, weights=weights, weights_backbone=None, **kwargs)
    with explained_download(f"the backbone of torchvision/{name}"):
        return models.get_model(name, weights=None, weights_backbone=backbone, num_classes=num_classes + 1, **kwargs)


def pretrained_options(name: str) -> dict[str, Any]:
    """The options of a network that its published weights bring along: with them it is the same without a download."""
    from torchvision import models

    if name in ("googlenet", "inception_v3"):
        return {"transform_input": True}  # its own normalisation, on top of the data's
    if name.startswith("vit_"):
        return {"image_size": models.get_model_weights(name).DEFAULT.meta["min_size"][0]}
    return {}


def _pretrained(name: str, num_classes: int, in_channels: int, **kwargs: Any) -> nn.Module:
    from torchvision import models

    if in_channels != 3:
        raise UserError(
            f"the pretrained weights of torchvision/{name} are for 3 channels, found in_channels={in_channels}; "
            "convert the images to RGB, or pass pretrained=False"
        )
    weights = models.get_model_weights(name).DEFAULT
    with _published(name, weights):
        model = models.get_model(name, weights=weights, **kwargs)
    if num_classes != torchvision_classes(name):
        _replace_classifier(model, num_classes)
    return model


@contextmanager
def _published(name: str, weights: Any) -> Iterator[None]:
    """Let no other process download these weights, and no other file under their name be loaded."""
    file = Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(weights.url).name)
    with explained_download(f"torchvision/{name}"), locked(file):
        if file.exists():
            read_pickle(file)  # torchvision itself would run what another file under this name says
        yield


def _replace_classifier(model: nn.Module, num_classes: int) -> None:
    name = find_classifier(model)
    old = model.get_submodule(name)
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
    elif isinstance(old, nn.Conv2d):  # SqueezeNet's
        new = nn.Conv2d(old.in_channels, num_classes, kernel_size=1)
    model.set_submodule(name, new)


def _replace_first_convolution(model: nn.Module, in_channels: int) -> None:
    layer = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    layer.in_channels = in_channels
    layer.weight = nn.Parameter(layer.weight.new_empty(layer.out_channels, in_channels, *layer.kernel_size))
    layer.reset_parameters()
