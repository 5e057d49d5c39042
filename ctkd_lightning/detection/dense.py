"""Detectors in one stage, which score all anchors: RetinaNet, FCOS, SSD and SSDlite."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ctkd_lightning.detection._images import normalisation_of
from ctkd_lightning.detection.detector import Detector, Heard, has_children
from ctkd_lightning.detection.output import BOXES, DetectorOutput
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import NetworkOutput, Step, at_least_float32

_ANCHORS = ("sizes", "aspect_ratios", "scales", "steps", "clip")  # what torchvision's generators make anchors of


class Dense(Detector):
    """A backbone, a head on its levels, and anchors.

    Nearly all anchors are background, which would drown what a teacher says of objects: each weighs as much as the
    teacher is sure that there is one.
    """

    places = "anchors"

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self._compared = False

    @classmethod
    def fits(cls, network: Any) -> bool:
        """Whether it has a backbone, a head with classes and boxes, and anchors."""
        return has_children(network, "backbone", "head", "anchor_generator") and has_children(
            network.head, "classification_head", "regression_head"
        )

    @property
    def num_classes(self) -> int | None:
        """Classes; of SSD the background included."""
        return getattr(self.network.head.classification_head, "num_classes", None)

    def watched(self) -> Mapping[str, tuple[nn.Module, Literal["input", "output"]]]:
        """Images, anchors and what the head says of them."""
        network = self.network
        return {
            "images": (network.anchor_generator, "input"),
            "anchors": (network.anchor_generator, "output"),
            "scores": (network.head, "output"),
            "transformed": (network.transform, "output"),
        }

    def output(self, heard: Heard, roles: Collection[str]) -> DetectorOutput:
        """Of each anchor: logits and the decoded box."""
        images, anchors = heard["images"][0], heard["anchors"]
        return DetectorOutput(
            heard["scores"]["cls_logits"],
            self._boxes(heard["scores"], anchors, roles),
            images=images.tensors,
            sizes=[tuple(size) for size in images.image_sizes],
            normalisation=normalisation_of(self.network),
            places=anchors,
            labels=self._labels(anchors, heard["transformed"][1]),
        )

    def score(self, student: DetectorOutput, roles: Collection[str]) -> NetworkOutput:
        """Its head on the student's images, at anchors that must be the same."""
        images = self.images_of(student)
        features = list(self.features(images).values())
        scores = self.network.head(features)
        self._compare_anchors(student, images, features, scores["cls_logits"].shape[1])
        return NetworkOutput(scores["cls_logits"], self._boxes(scores, student.places, roles))

    def step(self, student: DetectorOutput, teacher: NetworkOutput) -> Step:
        """The assigned labels where they are known, and what the teacher's certainty weighs."""
        return Step(student.labels, mask=self.certainty(at_least_float32(teacher.logits)))

    def certainty(self, logits: Tensor) -> Tensor:
        """How sure a teacher is that there is an object: the score of its top class, (B, A)."""
        return logits.amax(dim=-1).sigmoid()

    def check_teacher(self, teacher: Detector) -> None:
        """As for all detectors, and the anchors' settings.

        Raises:
            UserError: other classes, or other anchors.
        """
        super().check_teacher(teacher)
        own, other = (_anchor_settings(network.anchor_generator) for network in (self.network, teacher.network))
        for name in own.keys() & other.keys():
            if own[name] != other[name]:
                raise UserError(
                    f"the student's anchors have {name} {own[name]} and the teacher's {other[name]}, so that their "
                    "scores are of other places: take a teacher with the student's anchor_generator"
                )

    def _labels(self, anchors: list[Tensor], targets: list[dict[str, Tensor]] | None) -> Tensor | None:
        """The class assigned to each anchor; ``None`` where classes are scored one against the rest."""
        return None

    def _boxes(self, scores: Mapping[str, Tensor], anchors: list[Tensor], roles: Collection[str]) -> dict[str, Tensor]:
        """The decoded boxes (B, A, 4)."""
        if BOXES not in roles:
            return {}
        coder: Any = self.network.box_coder
        regression = at_least_float32(scores["bbox_regression"])
        places = torch.stack(anchors)
        if hasattr(coder, "decode_single"):  # rows alone
            boxes = coder.decode_single(regression.flatten(0, 1), places.flatten(0, 1)).view_as(regression)
        else:
            boxes = coder.decode(regression, places)
        return {BOXES: boxes}

    def _compare_anchors(self, student: DetectorOutput, images: Tensor, features: list[Tensor], count: int) -> None:
        """Look at the first batch, which waits for the device; afterwards at their number."""
        anchors = student.places[0]
        if not self._compared:
            own = self._anchors(images, student.sizes, features)
            if own.shape == anchors.shape and not _alike(own, anchors):
                raise UserError(
                    "the teacher's anchors are others than the student's, so that their scores are of other places: "
                    "take a teacher with the student's anchor_generator, and a backbone of the same strides"
                )
            self._compared = True
        if count != len(anchors):
            raise UserError(
                f"the student scores {len(anchors)} anchors an image and the teacher {count}: take a teacher with the "
                "student's anchor_generator, and a backbone of the same strides"
            )

    def _anchors(self, images: Tensor, sizes: list[tuple[int, int]], features: list[Tensor]) -> Tensor:
        from torchvision.models.detection.image_list import ImageList  # takes as long to import as torch

        anchors: list[Tensor] = self.network.anchor_generator(ImageList(images, sizes), features)
        return anchors[0]


class RetinaNet(Dense):
    """Classes one against the rest, with a sigmoid each."""

    family, task = "RetinaNet", "multilabel"


class FCOS(Dense):
    """Classes one against the rest, at points; what it says of their centredness is not read."""

    family, task = "FCOS", "multilabel"

    @classmethod
    def fits(cls, network: Any) -> bool:
        """Whether its boxes are distances from points."""
        return super().fits(network) and hasattr(network.head.regression_head, "bbox_ctrness")


class SSD(Dense):
    """A softmax over the classes and the background."""

    family, task = "SSD", "multiclass"

    @classmethod
    def fits(cls, network: Any) -> bool:
        """Whether its head gives columns for classes at each anchor."""
        return super().fits(network) and hasattr(network.head.classification_head, "num_columns")

    @property
    def num_classes(self) -> int | None:
        """Classes, the background included."""
        classes: int = self.network.head.classification_head.num_columns
        return classes

    def certainty(self, logits: Tensor) -> Tensor:
        """How sure a teacher is that there is an object: 1 − p(background), (B, A)."""
        return 1 - logits.softmax(dim=-1)[..., 0]

    @torch.no_grad()
    def _labels(self, anchors: list[Tensor], targets: list[dict[str, Tensor]] | None) -> Tensor | None:
        if targets is None:
            return None
        return torch.stack([self._labels_of(*each) for each in zip(anchors, targets, strict=True)])

    def _labels_of(self, anchors: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        """The classes of one image's anchors, assigned a second time: the first is seen by nobody."""
        from torchvision.ops import box_iou

        labels = target["labels"].new_zeros(len(anchors))
        if target["boxes"].numel():
            matched = self.network.proposal_matcher(box_iou(target["boxes"], anchors))
            labels = torch.where(matched >= 0, target["labels"][matched.clamp(min=0)], 0)
        return labels


def _alike(own: Tensor, other: Tensor) -> bool:
    """Whether anchors are the same, as far as their types can tell: they are computed in that of the features."""
    precision = max(torch.finfo(anchors.dtype).eps for anchors in (own, other))
    return torch.allclose(own.double(), other.double(), rtol=2 * precision, atol=1e-2)


def _anchor_settings(generator: nn.Module) -> dict[str, Any]:
    found = {name: getattr(generator, name) for name in _ANCHORS if hasattr(generator, name)}
    return {name: _as_tuples(value) for name, value in found.items()}


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value
