"""What a run tells its loggers beside the metrics that the Trainer logs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.configuration import plain
from ctkd_lightning.job.explain import described
from ctkd_lightning.job.run_directory import RunDirectory

log = logging.getLogger(__name__)


def mlflow_logger(folder: str | Path, server: str | None = None, experiment: str = "ctkd_lightning") -> MLFlowLogger:
    """MLflow's logger: of a server, or of a SQLite file in the run directory.

    Args:
        folder: the run directory, whose path names the run.
        server: an address such as ``http://127.0.0.1:5000``.
        experiment: the experiment's name.
    """
    local = Path(folder).absolute()
    logging.getLogger("alembic").setLevel(logging.WARNING)  # tells each step of the making of the file
    return MLFlowLogger(
        experiment_name=experiment,
        run_name=str(folder),
        tracking_uri=server or f"sqlite:///{local / 'mlflow.db'}",
        artifact_location=None if server else (local / "mlflow").as_uri(),
    )


@rank_zero_only
def tell_configuration(loggers: Iterable[Logger], cfg: DictConfig) -> None:
    """Give the configuration to those that show it; beside ``metrics.csv`` it stands in ``.hydra``.

    Raises:
        UserError: a server that cannot be reached, or what else keeps a logger from its work.
    """
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            continue
        try:
            logger.log_hyperparams(plain(cfg))
        except Exception as error:  # each library has its own
            raise UserError(
                f"{type(logger).__name__} cannot be used: {described(error)}; mend that, or leave logger= out"
            ) from error


@rank_zero_only
def publish(loggers: Iterable[Logger], run: RunDirectory, numbers: dict[str, float], step: int) -> None:
    """Give the loggers what came out in the end. Where one fails, a warning: the run itself has it all.

    Args:
        loggers: of the training.
        run: whose figures, student, summary and page they get, as far as they can hold files.
        numbers: of the test, by metric name.
        step: the training's last.
    """
    figures = sorted(run.figures.glob("*.png"))
    files = [path for path in (run.summary, run.student, run.report, run.fused) if path.is_file()]
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            continue
        try:
            logger.log_metrics(numbers, step)
            if isinstance(logger, MLFlowLogger):
                _to_mlflow(logger, run, files)
            elif isinstance(logger, TensorBoardLogger):
                _to_tensorboard(logger, figures)
            elif isinstance(logger, WandbLogger):
                _to_wandb(logger, run, files, figures)
            logger.save()
        except Exception as error:  # of a server, a network, a library
            log.warning("%s did not get all of the run: %s", type(logger).__name__, described(error))


def _to_mlflow(logger: MLFlowLogger, run: RunDirectory, files: Sequence[Path]) -> None:
    for path in files:
        logger.experiment.log_artifact(logger.run_id, str(path))
    if run.figures.is_dir():
        logger.experiment.log_artifacts(logger.run_id, str(run.figures), "figures")


def _to_tensorboard(logger: TensorBoardLogger, figures: Sequence[Path]) -> None:
    from matplotlib.image import imread

    for path in figures:
        logger.experiment.add_image(f"figures/{path.stem}", imread(path)[..., :3], dataformats="HWC")


def _to_wandb(logger: WandbLogger, run: RunDirectory, files: Sequence[Path], figures: Sequence[Path]) -> None:
    import wandb

    shown: dict[str, Any] = {f"figures/{path.stem}": wandb.Image(str(path)) for path in figures}
    if run.report.is_file():
        shown["report"] = wandb.Html(str(run.report), inject=False)
    if shown:
        logger.experiment.log(shown)
    for path in files:
        logger.experiment.save(str(path), base_path=str(run.path), policy="now")


def beside_another(loggers: Iterable[Logger], run: RunDirectory) -> list[Logger]:
    """The loggers of a further training in this process, which shall not write into the run of the first.

    Args:
        loggers: of the further training.
        run: its files.
    """
    loggers = list(loggers)
    kept = [logger for logger in loggers if not isinstance(logger, WandbLogger)]
    if len(kept) < len(loggers):
        log.info("Weights & Biases has one run a process: this training is in %s alone", run.metrics)
    return kept


@contextmanager
def ended(loggers: Sequence[Logger]) -> Iterator[None]:
    """End, whatever comes, what would go on with the next run of a sweep.

    Args:
        loggers: a list that may grow until then.
    """
    try:
        yield
    finally:
        if any(isinstance(logger, WandbLogger) for logger in loggers):
            import wandb

            wandb.finish()
