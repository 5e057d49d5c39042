"""From a configuration to a result: the teacher if need be, then the student and its test."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from omegaconf import DictConfig
from rich.filesize import decimal
from torch import nn

from ctkd_lightning import build
from ctkd_lightning._files import user_path
from ctkd_lightning.callbacks._throughput import Throughput
from ctkd_lightning.data import ImageDataModule
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.explain import described
from ctkd_lightning.job.figures import plot_training
from ctkd_lightning.job.metrics import carry_over, read_rows
from ctkd_lightning.job.preflight import check_resumable, check_settings
from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.job.summary import (
    Best,
    NetworkSummary,
    Summary,
    describe_environment,
    parameters_of,
    read_summary,
)
from ctkd_lightning.job.table import print_table
from ctkd_lightning.job.teacher import check_beats_chance, ready_teacher
from ctkd_lightning.models import save_weights
from ctkd_lightning.modules import ClassifierModule, DistillationModule
from ctkd_lightning.teacher_cache.cached import check_cacheable
from ctkd_lightning.temperature import LearnedTemperature

log = logging.getLogger(__name__)


def distil(
    cfg: DictConfig, run_dir: str | Path, choices: Mapping[str, str], overrides: Sequence[str] = ()
) -> float | None:
    """Do the whole job of a configuration.

    Args:
        cfg: the composed configuration.
        run_dir: for what the run makes.
        choices: which option of each config group was taken.
        overrides: what the user set.

    Returns:
        The student's best validation top-1, percent; of the test data where they validate; ``None`` without either.
    """
    run = RunDirectory(run_dir)
    cfg.run_dir = str(run)
    resume = run.resume_from(cfg.resume)
    earlier = read_summary(run) if resume else None
    summary = Summary(
        model=_pair_name(cfg.model, choices["model"], overrides),
        data=choices["data"],
        method="+".join(cfg.method.terms),
        temperature=choices["temperature"],
        curriculum=choices["curriculum"],
        seed=cfg.seed,
        teacher=NetworkSummary(cfg.model.teacher.name),
        student=NetworkSummary(cfg.model.student.name),
        **describe_environment(),
    )
    if earlier is not None:
        summary.take_over(earlier)
    with _recorded(summary, run, going_on=earlier is not None):
        check_settings(cfg)
        summary.precision = str(build.precision(cfg))
        _say_how(cfg, summary.precision)
        data = build.data(cfg)
        teacher, student = build.networks(cfg, data)
        summary.teacher.parameters, summary.student.parameters = parameters_of(teacher), parameters_of(student)
        module = build.module(cfg, teacher, student, data)
        _say_what_has_no_effect(summary, module, chosen=_sets(overrides, "curriculum"))
        training = _Training(cfg, run, module, data, resume)

        ready_teacher(cfg, teacher, data)
        if cfg.teacher.check:
            top1 = _accuracy(cfg, teacher, data, "val")["val/top1"]
            check_beats_chance(top1, data.num_classes, len(data.val_indices), cfg.model.teacher.name)

        summary.stage = summary.status = "student"
        _write(summary, run)
        seed_everything(cfg.seed, workers=True, verbose=False)  # whatever the teacher's stage has drawn
        _cache_teacher(cfg, module, data, summary.precision)
        if cfg.compile:
            module.compile_networks()
        training.run(summary)

        summary.stage = "test"
        for network, found in ((teacher, summary.teacher), (student, summary.student)):
            metrics = _accuracy(cfg, network, data, "test")
            found.top1, found.top5 = metrics["test/top1"], metrics["test/top5"]
    return summary.best.top1


@contextmanager
def _recorded(summary: Summary, run: RunDirectory, *, going_on: bool) -> Iterator[None]:
    """Keep ``summary.json`` whatever comes; print the table and draw unless the run failed.

    Args:
        summary: of this run.
        run: its files.
        going_on: whether they are those of an earlier part: they stay as they are until the student trains on.
    """
    if not going_on:
        _write(summary, run)
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as stop:  # Lightning makes the first of Ctrl-C and SIGTERM
        summary.status = "stopped"
        _close(summary, run)
        if isinstance(stop, KeyboardInterrupt):
            raise SystemExit(130) from stop
        raise SystemExit(stop.code or 143) from stop  # what ends a job early must not look like success
    except Exception as error:
        if going_on and summary.stage == "teacher":
            raise
        summary.status, summary.error = "failed", described(error)
        try:
            _write(summary, run)
        except UserError as unwritable:
            log.warning("%s", unwritable)  # and the error itself is told by the caller
        raise
    summary.status = "complete"
    _close(summary, run)


@rank_zero_only
def _write(summary: Summary, run: RunDirectory) -> None:
    summary.write(run)


@rank_zero_only
def _close(summary: Summary, run: RunDirectory) -> None:
    summary.write(run)
    print_table(summary, run)
    plot_training(run, validated_on=summary.best.chosen_on or "validation")


class _Training:
    """The student's training: its Trainer, made before the teacher's stage, so that its mistakes show first."""

    def __init__(
        self,
        cfg: DictConfig,
        run: RunDirectory,
        module: DistillationModule,
        data: ImageDataModule,
        resume: Path | None,
    ) -> None:
        self.run_files, self.module, self.data, self.resume = run, module, data, resume
        self.epochs_before = check_resumable(resume, module) if resume else 0
        if cfg.teacher_cache not in ("off", "auto"):
            check_cacheable(module.distillation.teacher_needs)
        self.throughput = Throughput()
        self.loggers = build.loggers(cfg)
        callbacks = [*build.callbacks(cfg), self.throughput]
        self.trainer = build.trainer(cfg, callbacks=callbacks, logger=self.loggers)

    def run(self, summary: Summary) -> None:
        """Train, from the start or from where an earlier part ended; also where it is stopped, tell how far it came."""
        if self.resume and self.trainer.is_global_zero:
            for logger in self.loggers:
                if isinstance(logger, CSVLogger):
                    carry_over(read_rows(self.run_files.metrics), logger, before_epoch=self.epochs_before)
        started = time.perf_counter()
        try:
            self.trainer.fit(self.module, datamodule=self.data, ckpt_path=self.resume, weights_only=True)
        except BaseException:
            try:
                self._keep(summary, time.perf_counter() - started)
            except (OSError, UserError) as error:  # beside the one that matters
                log.warning("cannot write the student's weights: %s", error)
            raise
        self._keep(summary, time.perf_counter() - started)

    def _keep(self, summary: Summary, seconds: float) -> None:
        """Numbers for the summary, and the student's weights."""
        summary.train_seconds += seconds
        trainer, cached = self.trainer, self.module.cached_teacher
        summary.epochs = max(trainer.current_epoch, self.epochs_before)  # Lightning restores the last begun epoch
        if cached is not None and cached.asked:
            summary.teacher_cache = cached.known / cached.asked
        if self.throughput.images_per_second:
            summary.images_per_second = self.throughput.images_per_second * trainer.world_size
        metrics = trainer.callback_metrics
        final = {name: float(value) for name, value in metrics.items() if name.startswith("ctkd/")}
        summary.final = final or summary.final  # where a resumed run has nothing left to do
        best = next((c for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None) == "val/top1"), None)
        if isinstance(best, ModelCheckpoint) and best.best_model_score is not None:
            epoch = torch.load(best.best_model_path, map_location="cpu", weights_only=True, mmap=True)["epoch"] + 1
            on_test = self.data.validates_on_test
            summary.best = Best(float(best.best_model_score), epoch, "test" if on_test else "validation")
        if trainer.is_global_zero and trainer.global_step:  # else these are not trained, or not yet restored
            save_weights(self.module.student, self.run_files.student)


def _accuracy(cfg: DictConfig, network: nn.Module, data: ImageDataModule, stage: str) -> dict[str, float]:
    """Accuracy of a network on validation or test data, in float32 whatever the training's precision."""
    trainer = build.trainer(cfg, precision="32-true", logger=False, callbacks=build.progress_bar(cfg))
    evaluate: Any = trainer.validate if stage == "val" else trainer.test
    module = ClassifierModule(network, channels_last=build.channels_last(cfg))
    evaluate(module, datamodule=data, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _cache_teacher(cfg: DictConfig, module: DistillationModule, data: ImageDataModule, precision: str) -> None:
    """Keep the teacher's outputs, where that is asked for."""
    setting, default = cfg.teacher_cache, Path(cfg.teacher.cache_dir).parent / "teacher_outputs"
    if setting == "off":
        return
    folder = user_path(default if setting == "auto" else setting)
    try:
        cached = module.cache_teacher(data, folder, precision=precision)
    except UserError as error:
        if setting != "auto":
            raise
        log.warning("No teacher cache: %s", error)
        return
    log.info("Teacher cache: %s, %s", cached.store.path, decimal(cached.store.nbytes))


def _say_how(cfg: DictConfig, precision: str) -> None:
    accelerator = build.accelerator(cfg)
    layout = ", channels-last" if build.channels_last(cfg) else ""
    log.info("Training on %s in %s%s; tests run in 32-true", accelerator, precision, layout)


def _say_what_has_no_effect(summary: Summary, module: DistillationModule, *, chosen: bool) -> None:
    """Name the choices that change nothing, and warn of a curriculum that the user chose for nothing."""
    if not module.uses_temperature:
        summary.without_effect.append("temperature")  # the module has said it
    if any(isinstance(t, LearnedTemperature) for t in module.distillation.temperatures):
        return
    summary.without_effect.append("curriculum")
    if chosen:
        rank_zero_warn(
            f"curriculum={summary.curriculum} has no effect: temperature={summary.temperature} does not learn; take "
            "temperature=global or instance"
        )


def _sets(overrides: Sequence[str], key: str) -> bool:
    """Whether the user set something at or below a key."""
    return any(re.match(rf"[+~]*{re.escape(key)}[.=]", override) for override in overrides)


def _pair_name(model: DictConfig, choice: str, overrides: Sequence[str]) -> str:
    """The pair's, or the two networks' where the user has replaced one."""
    if not any(_sets(overrides, f"model.{role}") for role in ("teacher", "student")):
        return choice
    return f"{model.teacher.name}_to_{model.student.name}"
