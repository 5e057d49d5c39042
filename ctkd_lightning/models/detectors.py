"""Detectors by name: Faster R-CNNs of this package, and torchvision's."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.models import faster_rcnn
from ctkd_lightning.models._download import explained_download
from ctkd_lightning.models._factory import explained_options
from ctkd_lightning.models.from_torchvision import (
    create_torchvision_detector,
    list_torchvision_detectors,
    torchvision_builder,
)

_LIBRARY = "torchvision/"
_NAMELESS = {"self", "args", "kwargs"}


def available_detectors() -> list[str]:
    """The names that :func:`create_detector` knows.

    Example:
        >>> available_detectors()[:2]
        ['faster_rcnn_mobilenet_v2', 'faster_rcnn_resnet101']
    """
    return [*sorted(faster_rcnn.MODELS), *(_LIBRARY + name for name in list_torchvision_detectors())]


def create_detector(name: str, num_classes: int, *, pretrained: bool = False, **options: Any) -> nn.Module:
    """Create a detector by name: from images, and in training their objects, to what torchvision's detectors give.

    Args:
        name: ``faster_rcnn_small``, ``faster_rcnn_resnet18`` and others over feature pyramids, or ``torchvision/NAME``.
        num_classes: of the objects, whose labels are 1 to ``num_classes``; the background is not one of them.
        pretrained: download published COCO weights; torchvision's alone, whose labels are COCO's 90 category ids.
        **options: of the detector itself, such as ``min_size``; ``pretrained_backbone`` downloads ImageNet weights for
            what is under the pyramid.

    Raises:
        UserError: an unknown name or option, or weights that do not exist or cannot be downloaded.

    Example:
        >>> detector = create_detector("faster_rcnn_small", num_classes=10, channels=(4, 8, 16), convolutions=1)
        >>> detector.roi_heads.box_predictor.cls_score.out_features
        11
    """
    if num_classes < 1:
        raise UserError(f"a detector needs a class of objects, found num_classes={num_classes}")
    with explained_options(name):
        made = _create(name, num_classes, pretrained, options)
    _check_read(name, made, options)
    return made


def _create(name: str, num_classes: int, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    if name.startswith(_LIBRARY):
        return create_torchvision_detector(name.removeprefix(_LIBRARY), num_classes, pretrained=pretrained, **options)
    if name not in faster_rcnn.MODELS:
        raise UserError(f"unknown detector {name!r}: {suggest(name, available_detectors())}")
    if pretrained:
        raise UserError(
            f"{name} has no weights to download as a whole: pass pretrained=False, then train it or load a checkpoint "
            "of it; pretrained_backbone=True downloads those under its pyramid"
        )
    with explained_download(f"the backbone of {name}"):
        return faster_rcnn.MODELS[name](num_classes, **options)


def _check_read(name: str, made: nn.Module, options: Mapping[str, Any]) -> None:
    """Refuse what torchvision's detectors hand on until it is dropped.

    Raises:
        UserError: an option that nothing has read.
    """
    builder = faster_rcnn.MODELS.get(name) or torchvision_builder(name.removeprefix(_LIBRARY))
    read = {"pretrained_backbone"}
    for each in (builder, type(made).__init__, type(made.transform).__init__):
        read |= inspect.signature(each).parameters.keys()
    if unread := sorted(options.keys() - read):
        raise UserError(f"wrong option for model {name}: it has no {unread[0]}; {suggest(unread[0], read - _NAMELESS)}")
