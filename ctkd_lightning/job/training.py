"""What every job does: keep its summary whatever comes, and train."""

from __future__ import annotations

import logging
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from torch import nn

from ctkd_lightning import build
from ctkd_lightning.callbacks import CurriculumTemperatureCallback, FiniteSteps
from ctkd_lightning.callbacks._throughput import Throughput
from ctkd_lightning.data._labelled import LabelledDataModule
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.explain import described
from ctkd_lightning.job.loggers import tell_configuration
from ctkd_lightning.job.measures import BEST
from ctkd_lightning.job.metrics import KeepRows, MetricsLogger, Row, rows_before
from ctkd_lightning.job.preflight import check_resumable, finished_epochs, read_resumable
from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.job.signals import exit_status
from ctkd_lightning.job.summary import Best, RunSummary, read_summary
from ctkd_lightning.job.temperatures import KeepTemperatures
from ctkd_lightning.modules import ClassifierModule
from ctkd_lightning.temperature import LearnedTemperature

log = logging.getLogger(__name__)

_RESTORE = ("go_on", "_go_on", "load_state_dict")
"""Functions that restore, later than Lightning asks for it."""

_Kind = TypeVar("_Kind", bound=Callback)
_Tested = TypeVar("_Tested", bound=ClassifierModule)


def begin(cfg: DictConfig, run_dir: str | Path) -> tuple[RunDirectory, Path | None, RunSummary | None]:
    """A run's files, the checkpoint to go on from, and the summary of the earlier part.

    Args:
        cfg: whose ``run_dir`` is set.
        run_dir: for what the run makes.
    """
    run = RunDirectory(run_dir)
    cfg.run_dir = str(run)
    rank_zero_only(run.remove_partial)()
    resume = run.resume_from(cfg.resume)
    return run, resume, read_summary(run) if resume else None


@contextmanager
def recorded(
    summary: RunSummary, run: RunDirectory, close: Callable[[], None], *, going_on: bool, first_stage: str
) -> Iterator[None]:
    """Keep ``summary.json`` whatever comes; close the run, on one process, unless it failed.

    Args:
        summary: of this run.
        run: its files.
        close: prints the table and draws.
        going_on: whether the files are those of an earlier part: they stay as they are until the training goes on.
        first_stage: the summary's stage until then.
    """
    if not going_on:
        write(summary, run)
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as stop:
        summary.status = "stopped"
        write(summary, run)
        rank_zero_only(close)()
        raise SystemExit(exit_status(stop)) from stop
    except Exception as error:
        if going_on and summary.stage == first_stage:
            raise
        summary.status, summary.error = "failed", described(error)
        try:
            write(summary, run)
        except UserError as unwritable:
            log.warning("%s", unwritable)  # and the error itself is told by the caller
        raise
    summary.status = "complete"
    write(summary, run)
    rank_zero_only(close)()


@rank_zero_only
def write(summary: RunSummary, run: RunDirectory) -> None:
    """Write the summary, on one process."""
    summary.write(run)


def tester(cfg: DictConfig, *callbacks: Callback) -> Trainer:
    """A Trainer for tests: in float32 whatever the training's precision, without loggers.

    Args:
        cfg: the configuration.
        *callbacks: beside the progress bar.
    """
    return build.trainer(cfg, precision="32-true", logger=False, callbacks=[*build.progress_bar(cfg), *callbacks])


def run_test(
    cfg: DictConfig, kind: type[_Tested], network: nn.Module, data: LabelledDataModule, stage: str = "test"
) -> tuple[dict[str, float], _Tested]:
    """Accuracy of a network on validation or test data, in float32 whatever the training's precision.

    Args:
        cfg: the configuration.
        kind: of module that tests it.
        network: images, or tokens, to logits; left in float32.
        data: what it is tested on.
        stage: ``"test"`` or ``"val"``.

    Returns:
        The metrics by name, and the module.
    """
    trainer = tester(cfg)
    evaluate: Any = trainer.validate if stage == "val" else trainer.test
    module = kind(network.float(), **build.layout(cfg))  # also of a training in bf16-true or 64-true
    evaluate(module, datamodule=data, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}, module


class Training:
    """A training: its Trainer, made before any stage, so that its mistakes show first.

    Args:
        cfg: the configuration.
        run: the run's files.
        module: what is trained.
        data: what it is trained on.
        resume: the checkpoint to go on from.
        save: writes the trained weights; called on one process, also where the training is stopped.
        loggers: in the place of the configured ones.
        curriculum: the callback in the place of the configured one.
    """

    def __init__(
        self,
        cfg: DictConfig,
        run: RunDirectory,
        module: LightningModule,
        data: LabelledDataModule,
        resume: Path | None,
        save: Callable[[], None],
        loggers: Iterable[Logger] | None = None,
        curriculum: Callback | None = None,
    ) -> None:
        self.run_files, self.module, self.data, self.resume, self.save = run, module, data, resume, save
        self.distils = curriculum if isinstance(curriculum, CurriculumTemperatureCallback) else None
        self.earlier = check_resumable(resume, module) if resume else None
        self.before: list[Row] = []
        self.throughput = Throughput()
        self.loggers = build.loggers(cfg) if loggers is None else list(loggers)
        self.metrics = [logger for logger in self.loggers if isinstance(logger, MetricsLogger)]
        callbacks = [
            *build.callbacks(cfg, curriculum),
            self.throughput,
            KeepTemperatures(run),
            *map(KeepRows, self.metrics),
        ]
        self.trainer = build.trainer(cfg, callbacks=callbacks, logger=self.loggers)
        tell_configuration(self.loggers, cfg)

    def run(self, summary: RunSummary) -> None:
        """Train, from the start or from where an earlier part ended; also where it is stopped, tell how far it came."""
        started = time.perf_counter()
        try:
            self.fit()
        except BaseException:
            try:
                self._keep(summary, time.perf_counter() - started)
            except (OSError, UserError) as error:  # beside the one that matters
                log.warning("cannot write the trained weights: %s", error)
            raise
        self._keep(summary, time.perf_counter() - started)

    def fit(self) -> None:
        """Train; the metrics go on behind those of the earlier part, or begin anew."""
        if self.trainer.is_global_zero:
            if self.earlier is None:
                self.run_files.clear()
            else:
                try:
                    self.before = rows_before(self.earlier, self.run_files.metrics)
                except (ValueError, TypeError, KeyError) as error:
                    raise UserError(
                        f"resume: {self.run_files.metrics} does not go with {self.resume} ({error}): restore or remove "
                        "it"
                    ) from error
            for logger in self.metrics:
                logger.experiment.begin_with(self.before)
        try:
            self.trainer.fit(self.module, datamodule=self.data, ckpt_path=self.resume, weights_only=True)
        except UserError:
            raise
        except Exception as error:
            if not _while_restoring(error):
                raise
            raise UserError(
                f"resume: cannot go on from {self.resume} ({described(error)}): it is damaged or of another training; "
                "give another checkpoint, or leave resume out"
            ) from error

    def _keep(self, summary: RunSummary, seconds: float) -> None:
        """Numbers for the summary, and the weights."""
        summary.train_seconds += seconds
        trainer = self.trainer
        summary.skipped_steps = sum(guard.skipped for guard in _of(trainer, FiniteSteps))
        finished = 0 if self.earlier is None else finished_epochs(self.earlier)
        summary.epochs = max(trainer.current_epoch, finished)  # Lightning restores the last begun epoch
        if self.throughput.images_per_second:
            summary.images_per_second = self.throughput.images_per_second * trainer.world_size
        metrics = trainer.callback_metrics
        final = {name: float(value) for name, value in metrics.items() if name.startswith("ctkd/")}
        if not final:  # a resumed run that has nothing left to do
            final = {name: value for row in self.before for name, value in row.items() if name.startswith("ctkd/")}
        summary.final = final
        holders = [self.module] if self.distils is None else [self.distils.temperature]
        learned = [part for holder in holders for part in holder.modules() if isinstance(part, LearnedTemperature)]
        summary.saturated = [
            name
            for name, tau in final.items()
            if re.fullmatch(r"ctkd/temperature(/.+)?", name) and any(part.at_end(tau) for part in learned)
        ]
        best = next((c for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None) in BEST), None)
        if isinstance(best, ModelCheckpoint) and best.monitor and best.best_model_score is not None:
            epoch = int(read_resumable(Path(best.best_model_path))["epoch"]) + 1
            on_test = self.data.validates_on_test
            summary.best = Best(epoch=epoch, chosen_on="test" if on_test else "validation")
            setattr(summary.best, BEST[best.monitor].name, float(best.best_model_score))
        if trainer.is_global_zero and trainer.global_step:  # else these are not trained, or not yet restored
            self.save()


def _of(trainer: Trainer, kind: type[_Kind]) -> list[_Kind]:
    callbacks: list[Callback] = cast(Any, trainer).callbacks
    return [callback for callback in callbacks if isinstance(callback, kind)]


def _while_restoring(error: Exception) -> bool:
    """Whether an error came up as Lightning put a checkpoint's content in its places."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).stem == "checkpoint_connector" or frame.name in _RESTORE for frame in frames)
