"""Detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ctkd_lightning import build
from ctkd_lightning.data import DetectionDataModule
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.tasks.task import Learning, Task
from ctkd_lightning.job.training import tester
from ctkd_lightning.modules import DetectionModule

_FINDS_SOMETHING = 1.0
"""AP50, percent: less has only a teacher that has not learned, or whose labels are others."""


class Detection(Task[DetectionDataModule]):
    """Average precision of detectors, which the callback distils."""

    name = "detection"
    without_effect = ("compile", "fuse_heads", "channels_last", "keep_outputs")
    temperature = "global_near_one"

    def check(self) -> None:
        """Neither a cache, nor without the callback."""
        super().check()
        if self.cfg.teacher_cache != "off":
            raise UserError(
                f"teacher_cache={self.cfg.teacher_cache} is of classifiers and language models: a teacher of detectors "
                "scores the student's own proposals, which are others in each step; leave it out"
            )
        if self.cfg.callbacks.get("curriculum") is None:
            raise UserError(
                "callbacks.curriculum distils detectors, and it is switched off: leave it in, or method=none"
            )
        if build.precision(self.cfg) == "bf16-true":
            raise UserError(
                "trainer.precision=bf16-true does not go with detectors: torchvision has no non-maximum suppression in "
                "bfloat16; take bf16-mixed"
            )
        if self.cfg.temperature.get("sure") and None in (self.cfg.temperature.low, self.cfg.temperature.high):
            raise UserError(
                "temperature=energy finds its thresholds by a pass over the training set, which detectors do not have, "
                "since they score the student's proposals: give temperature.low= and temperature.high="
            )

    def read(self) -> str:
        """Images with boxes."""
        self.data = build.detection_data(self.cfg)
        return self.data.test_fingerprint()

    def learning(self, teacher: nn.Module | None, student: nn.Module) -> Learning:
        """A module that knows nothing of distillation, and the callback."""
        callback = None if teacher is None else build.detector_distillation(self.cfg, teacher, self.data)
        return Learning(build.student_alone(self.cfg, student), callback)

    def measure(self, network: nn.Module, stage: str, role: str | None = None) -> Mapping[str, float]:
        """Average precisions."""
        trainer = tester(self.cfg)
        evaluate: Any = trainer.validate if stage == "val" else trainer.test
        evaluate(DetectionModule(network.float()), datamodule=self.data, verbose=False)
        return self._logged(trainer, stage)

    def check_teacher(self, found: Mapping[str, float]) -> None:
        """It finds something."""
        if not found["ap50"] >= _FINDS_SOMETHING:
            raise UserError(
                f"teacher {self.cfg.model.teacher.name} finds nothing: AP50 {found['ap50']:.2f} % on the validation "
                "images; check its classes' order (data.labels of data=coco), or train it longer (teacher.max_epochs)"
            )
