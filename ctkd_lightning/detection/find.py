"""Recognise a detector, wherever it is."""

from __future__ import annotations

from torch import nn

from ctkd_lightning.detection.dense import FCOS, SSD, RetinaNet
from ctkd_lightning.detection.detector import Detector
from ctkd_lightning.detection.rcnn import RCNN
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.layers import unwrap

FAMILIES: tuple[type[Detector], ...] = (RCNN, FCOS, SSD, RetinaNet)


def find_detector(network: nn.Module) -> Detector | None:
    """The detector that a network is, or the only one that it holds, through compiled networks and DDP's.

    torchvision's and their like are recognised by their children; of no other kind is anything known.

    Args:
        network: any module, such as a LightningModule with a detector in it.

    Raises:
        UserError: it holds several.
    """
    whole = _recognise(unwrap(network))
    if whole is not None:
        return whole
    parts = {id(unwrap(part)): (name, unwrap(part)) for name, part in network.named_modules()}
    held = {name: _recognise(part) for name, part in parts.values()}
    found = {name: detector for name, detector in held.items() if detector is not None}
    if len(found) > 1:
        raise UserError(
            f"{type(network).__name__} holds {len(found)} detectors, {', '.join(found)}: name or pass the one that is "
            "meant"
        )
    return next(iter(found.values()), None)


def _recognise(network: nn.Module) -> Detector | None:
    return next((family(network) for family in FAMILIES if family.fits(network)), None)
