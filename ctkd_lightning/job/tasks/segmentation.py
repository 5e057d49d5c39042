"""Segmenters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ctkd_lightning import build
from ctkd_lightning.data import SegmentationDataModule
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.tasks.task import Task
from ctkd_lightning.job.training import run_test
from ctkd_lightning.modules import ClassifierModule


class Segmentation(Task[SegmentationDataModule]):
    """Mean intersection over union of networks that give a class to each pixel."""

    name = "segmentation"
    without_effect = ("keep_outputs",)

    def check(self) -> None:
        """No cache: maps would take a thousand times the space of logits of images. No linear head either."""
        super().check()
        if self.cfg.fuse_heads is True:
            raise UserError("fuse_heads=true is of language models, whose last layer is linear; leave it out")
        if self.cfg.teacher_cache != "off":
            raise UserError(
                f"teacher_cache={self.cfg.teacher_cache} is of classifiers and language models: a segmenter's maps "
                "would take a thousand times their space; leave it out"
            )

    def read(self) -> str:
        """Images with a class a pixel."""
        self.data = build.segmentation_data(self.cfg)
        return self.data.test_fingerprint()

    def measure(self, network: nn.Module, stage: str, role: str | None = None) -> Mapping[str, float]:
        """Mean intersection over union, and the share of pixels that are right."""
        found, _ = run_test(self.cfg, ClassifierModule, network, self.data, stage)
        return {"miou": found[f"{stage}/miou"], "pixel_accuracy": found[f"{stage}/top1"]}

    def check_teacher(self, found: Mapping[str, float]) -> None:
        """Better than one class for all pixels."""
        classes = self.data.num_classes  # higher numbers are ignored pixels
        counts = torch.bincount(self.data.val_maps.flatten(), minlength=classes)[:classes]
        most = 100 * float(counts.max() / counts.sum() / (counts > 0).sum())
        if not found["miou"] > most:
            raise UserError(
                f"teacher {self.cfg.model.teacher.name} has learned nothing: mIoU {found['miou']:.2f} % on the "
                f"validation images, one class for all pixels has {most:.2f} %; check its classes' order, or "
                "train it longer (teacher.max_epochs)"
            )
