"""What a run asks of its task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from lightning.pytorch import LightningModule
from omegaconf import DictConfig
from torch import nn

from ctkd_lightning import build
from ctkd_lightning.callbacks import CurriculumTemperatureCallback
from ctkd_lightning.job.measures import TaskName
from ctkd_lightning.job.preflight import check_settings
from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.job.thresholds import fit_temperatures
from ctkd_lightning.methods import Method
from ctkd_lightning.models import save_weights
from ctkd_lightning.modules import DistillationModule

_Data = TypeVar("_Data", bound=build.TaskData)


@dataclass(frozen=True)
class Learning:
    """What trains a student.

    Attributes:
        module: is trained.
        callback: distils, where the module does not.
    """

    module: LightningModule
    callback: CurriculumTemperatureCallback | None = None

    @property
    def methods(self) -> list[Method]:
        """Of the distillation; none where the student learns alone."""
        if self.callback is not None:
            return [method for method in self.callback.methods.values() if isinstance(method, Method)]
        return [*self.module.distillation.terms.values()] if isinstance(self.module, DistillationModule) else []

    @property
    def temperatures(self) -> Iterable[nn.Module]:
        """Likewise, with what they are made of."""
        if self.callback is not None:
            return self.callback.temperature.modules()
        return self.module.distillation.temperatures if isinstance(self.module, DistillationModule) else ()


class Task(ABC, Generic[_Data]):
    """What the networks of one run do.

    Args:
        cfg: the run's configuration.

    Attributes:
        name: as in ``model.task``.
        without_effect: keys of the configuration that change nothing here.
        temperature: the choice of ``temperature=`` whose range goes with these scores, where CTKD's does not.
        data: the run's, once :meth:`read` has read them.
    """

    name: ClassVar[TaskName]
    without_effect: ClassVar[tuple[str, ...]] = ()
    temperature: ClassVar[str | None] = None

    data: _Data

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg

    def check(self) -> None:
        """Refuse settings that could only fail later.

        Raises:
            UserError: naming the setting.
        """
        check_settings(self.cfg)

    @abstractmethod
    def read(self) -> str:
        """Read the data; what tells their test samples from others.

        Raises:
            UserError: data of another task.
        """

    def learning(self, teacher: nn.Module | None, student: nn.Module) -> Learning:
        """What trains the student, with a teacher or alone: a module that distils, or trains on the labels.

        Raises:
            UserError: what does not go together.
        """
        if teacher is None:
            return Learning(build.student_alone(self.cfg, student))
        data: Any = self.data  # of a task that the module distils, or else this is another's
        return Learning(build.module(self.cfg, teacher, student, data))

    @abstractmethod
    def measure(self, network: nn.Module, stage: str, role: str | None = None) -> Mapping[str, float]:
        """The measures of a network by name, in float32 whatever the training's precision.

        Args:
            network: of the task; left in float32.
            stage: ``"test"`` or ``"val"``.
            role: of the network in the run, where what it gives is to be kept.
        """

    @abstractmethod
    def check_teacher(self, found: Mapping[str, float]) -> None:
        """Refuse a teacher that has learned nothing, by its measures on validation data.

        It would cost hours to learn that from the student.

        Raises:
            UserError: it is as good as none.
        """

    def cache_teacher(self, learning: Learning, folder: Path, precision: str) -> str:
        """Ask the teacher once and keep what it gives; a few words on that.

        Args:
            learning: whose module reads it from then on.
            folder: for all such files.
            precision: the training's, where what is kept depends on it.

        Raises:
            UserError: what cannot be kept.
        """
        raise NotImplementedError  # where check() refuses teacher_cache

    def check_cacheable(self, learning: Learning) -> None:
        """Find what :meth:`cache_teacher` would refuse before the teacher is trained."""

    def fit_temperatures(self, learning: Learning) -> None:
        """Tell temperatures what they must know of the training data."""
        if isinstance(learning.module, DistillationModule):
            fit_temperatures(learning.module, self.data)

    def save(self, student: nn.Module, run: RunDirectory, final: dict[str, float]) -> None:
        """Write the student's weights, with what describes it.

        Args:
            student: trained.
            run: its files.
            final: the last values of λ and τ by metric name.
        """
        save_weights(student, run.student)

    def keep_outputs(self, learning: Learning, run: RunDirectory) -> None:
        """Write what the networks gave in the test, where :meth:`measure` was told their roles."""

    @staticmethod
    def known_share(learning: Learning) -> float | None:
        """Of the teacher's outputs those that a cache knew before."""
        return None

    def _logged(self, trainer: Any, stage: str) -> dict[str, float]:
        return {name.removeprefix(f"{stage}/"): float(value) for name, value in trainer.callback_metrics.items()}
