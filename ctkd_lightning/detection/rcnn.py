"""Detectors in two stages: Faster, Mask and Keypoint R-CNN."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ctkd_lightning.detection._images import normalisation_of
from ctkd_lightning.detection.detector import Detector, Heard, has_children
from ctkd_lightning.detection.output import BOXES, DetectorOutput
from ctkd_lightning.features.outputs import NetworkOutput, Step, at_least_float32


class RCNN(Detector):
    """The box heads of torchvision's R-CNNs; what they say of masks and keypoints is not read.

    The places are the proposals that the student has sampled for its own loss. A teacher pools its features there and
    scores them; its own region proposals are not asked for.
    """

    family, task, places = "R-CNN", "multiclass", "proposals"

    @classmethod
    def fits(cls, network: Any) -> bool:
        """Whether it has a backbone, region proposals, and box heads upon them."""
        return has_children(network, "backbone", "rpn", "roi_heads") and has_children(
            network.roi_heads, "box_roi_pool", "box_head", "box_predictor"
        )

    @property
    def num_classes(self) -> int | None:
        """Classes, the background included."""
        return getattr(getattr(self.network.roi_heads.box_predictor, "cls_score", None), "out_features", None)

    def watched(self) -> Mapping[str, tuple[nn.Module, Literal["input", "output"]]]:
        """Images, targets, the sampled proposals and their scores."""
        heads = self.network.roi_heads
        return {
            "rpn": (self.network.rpn, "input"),
            "heads": (heads, "input"),
            "pool": (heads.box_roi_pool, "input"),
            "scores": (heads.box_predictor, "output"),
        }

    def output(self, heard: Heard, roles: Collection[str]) -> DetectorOutput:
        """Of each sampled proposal: logits, the assigned label, and the box of its class."""
        images = heard["rpn"][0]
        targets = heard["heads"][3] if len(heard["heads"]) > 3 else None
        proposals = [boxes.detach() for boxes in heard["pool"][1]]
        logits, regression = heard["scores"]
        labels = None if targets is None else self._labels(proposals, targets)
        return DetectorOutput(
            logits,
            self._boxes(regression, proposals, labels, roles),
            images=images.tensors,
            sizes=[tuple(size) for size in images.image_sizes],
            normalisation=normalisation_of(self.network),
            places=proposals,
            labels=labels,
        )

    def score(self, student: DetectorOutput, roles: Collection[str]) -> NetworkOutput:
        """Its box heads at the student's proposals."""
        heads = self.network.roi_heads
        pooled = heads.box_roi_pool(self.features(self.images_of(student)), student.places, student.sizes)
        logits, regression = heads.box_predictor(heads.box_head(pooled))
        return NetworkOutput(logits, self._boxes(regression, student.places, student.labels, roles))

    def step(self, student: DetectorOutput, teacher: NetworkOutput) -> Step:
        """The assigned labels; all sampled proposals count alike."""
        return Step(student.labels)

    @torch.no_grad()
    def _labels(self, proposals: list[Tensor], targets: list[dict[str, Tensor]]) -> Tensor:
        """The sampled proposals' labels, assigned a second time: the first is seen by nobody."""
        boxes = [target["boxes"].to(proposals[0].dtype) for target in targets]
        labels = [target["labels"] for target in targets]
        assigned = self.network.roi_heads.assign_targets_to_proposals(proposals, boxes, labels)[1]
        return torch.cat(assigned)

    def _boxes(
        self, regression: Tensor, proposals: list[Tensor], labels: Tensor | None, roles: Collection[str]
    ) -> dict[str, Tensor]:
        """The decoded boxes (P, 4), each of its place's class: the regression of the others is not trained there."""
        if BOXES not in roles or labels is None:
            return {}
        coder: Any = self.network.roi_heads.box_coder
        boxes = coder.decode(at_least_float32(regression), proposals)  # (P, C, 4), or one for all classes
        if boxes.shape[1] == 1:
            return {BOXES: boxes[:, 0]}
        return {BOXES: boxes[torch.arange(len(labels), device=labels.device), labels]}
