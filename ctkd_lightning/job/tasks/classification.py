"""Classifiers of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.filesize import decimal
from torch import nn

from ctkd_lightning import build
from ctkd_lightning.data import ImageDataModule
from ctkd_lightning.job.outputs import RecordingModule, add_temperatures, outputs_of, test_fingerprint
from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.job.student import describe
from ctkd_lightning.job.tasks.task import Learning, Task
from ctkd_lightning.job.teacher import check_beats_chance
from ctkd_lightning.job.training import run_test
from ctkd_lightning.models import save_student
from ctkd_lightning.modules import ClassifierModule, DistillationModule
from ctkd_lightning.teacher_cache.cached import CachedTeacher, check_cacheable


class Classification(Task[ImageDataModule]):
    """Top-1 and top-5 of classifiers of images."""

    name = "classification"

    def read(self) -> str:
        """Images."""
        self.data = build.data(self.cfg)
        self._tested: dict[str, RecordingModule] = {}
        return test_fingerprint(self.data)

    def measure(self, network: nn.Module, stage: str, role: str | None = None) -> Mapping[str, float]:
        """Accuracies."""
        if role is None:
            found, _ = run_test(self.cfg, ClassifierModule, network, self.data, stage)
        else:
            found, self._tested[role] = run_test(self.cfg, RecordingModule, network, self.data, stage)
        return {name.removeprefix(f"{stage}/"): value for name, value in found.items()}

    def check_teacher(self, found: Mapping[str, float]) -> None:
        """Better than a guesser."""
        name = self.cfg.model.teacher.name
        check_beats_chance(found["top1"], self.data.num_classes, len(self.data.val_indices), name)

    def check_cacheable(self, learning: Learning) -> None:
        """No feature maps."""
        if isinstance(learning.module, DistillationModule):
            check_cacheable(learning.module.distillation.teacher_needs)

    def cache_teacher(self, learning: Learning, folder: Path, precision: str) -> str:
        """By view of each image."""
        assert isinstance(learning.module, DistillationModule)
        cached = learning.module.cache_teacher(self.data, folder, precision=precision)
        return f"{cached.store.path}, {decimal(cached.store.nbytes)}"

    def save(self, student: nn.Module, run: RunDirectory, final: dict[str, float]) -> None:
        """With classes, normalisation and τ."""
        save_student(student, run.student, describe(self.cfg, self.data, final))

    def keep_outputs(self, learning: Learning, run: RunDirectory) -> None:
        """Logits and features of the test images, with τ where it depends on them."""
        kept = outputs_of(self._tested, self.data.class_names)
        if isinstance(learning.module, DistillationModule):
            add_temperatures(kept, learning.module, self.data)
        kept.write(run)

    @staticmethod
    def known_share(learning: Learning) -> float | None:
        """Of the views."""
        cached = learning.module.cached_teacher if isinstance(learning.module, DistillationModule) else None
        return cached.known / cached.asked if isinstance(cached, CachedTeacher) and cached.asked else None
