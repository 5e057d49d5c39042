"""One run: its command line, stages, files, tables and figures."""

from typing import TYPE_CHECKING

from ctkd_lightning._lazy import lazy_names

if TYPE_CHECKING:
    from ctkd_lightning.job.evaluation import evaluate
    from ctkd_lightning.job.evaluation_summary import Evaluation, read_evaluation
    from ctkd_lightning.job.fusion import fuse
    from ctkd_lightning.job.loggers import mlflow_logger
    from ctkd_lightning.job.metrics import MetricsLogger
    from ctkd_lightning.job.owner import RunOwner
    from ctkd_lightning.job.run_directory import RunDirectory
    from ctkd_lightning.job.stages import distil
    from ctkd_lightning.job.summary import Summary, read_summary
    from ctkd_lightning.job.sweep import SweepJobs
    from ctkd_lightning.job.teacher import ready_teacher

__all__ = [
    "Evaluation",
    "MetricsLogger",
    "RunDirectory",
    "RunOwner",
    "Summary",
    "SweepJobs",
    "distil",
    "evaluate",
    "fuse",
    "mlflow_logger",
    "read_evaluation",
    "read_summary",
    "ready_teacher",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Evaluation": "ctkd_lightning.job.evaluation_summary",
        "MetricsLogger": "ctkd_lightning.job.metrics",
        "RunOwner": "ctkd_lightning.job.owner",
        "SweepJobs": "ctkd_lightning.job.sweep",
        "RunDirectory": "ctkd_lightning.job.run_directory",
        "Summary": "ctkd_lightning.job.summary",
        "distil": "ctkd_lightning.job.stages",
        "evaluate": "ctkd_lightning.job.evaluation",
        "fuse": "ctkd_lightning.job.fusion",
        "mlflow_logger": "ctkd_lightning.job.loggers",
        "read_evaluation": "ctkd_lightning.job.evaluation_summary",
        "read_summary": "ctkd_lightning.job.summary",
        "ready_teacher": "ctkd_lightning.job.teacher",
    },
)
