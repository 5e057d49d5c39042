"""What is of one task alone in a run that distils: its data, module, numbers and checks."""

from omegaconf import DictConfig

from ctkd_lightning import build
from ctkd_lightning.job.tasks.classification import Classification
from ctkd_lightning.job.tasks.detection import Detection
from ctkd_lightning.job.tasks.language import Language
from ctkd_lightning.job.tasks.segmentation import Segmentation
from ctkd_lightning.job.tasks.task import Learning, Task

_TASKS: dict[str, type[Task]] = {task.name: task for task in (Classification, Detection, Language, Segmentation)}


def task_of(cfg: DictConfig) -> Task:
    """The task of a configuration's networks."""
    return _TASKS[build.task(cfg)](cfg)


__all__ = ["Classification", "Detection", "Language", "Learning", "Segmentation", "Task", "task_of"]
