"""From a configuration to a result: the teacher if need be, then the student and the test."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn
from omegaconf import DictConfig, OmegaConf

from ctkd_lightning import build
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.configuration import config_dir
from ctkd_lightning.job.figures import plot_training
from ctkd_lightning.job.loggers import ended, publish
from ctkd_lightning.job.measures import BEST, MEASURES
from ctkd_lightning.job.overrides import sets
from ctkd_lightning.job.summary import NetworkSummary, Summary, describe_environment, parameters_of
from ctkd_lightning.job.table import print_table
from ctkd_lightning.job.tasks import Learning, Task, task_of
from ctkd_lightning.job.teacher import cache_folder, ready_baseline, ready_teacher
from ctkd_lightning.job.training import Training, begin, recorded, write
from ctkd_lightning.modules import ClassifierModule, DistillationModule
from ctkd_lightning.temperature import LearnedTemperature

log = logging.getLogger(__name__)

_OF_IMAGES = ("global", "instance")
"""Choices of ``temperature=`` whose range is CTKD's for classes of images."""


def distil(
    cfg: DictConfig,
    run_dir: str | Path,
    choices: Mapping[str, str],
    overrides: Sequence[str] = (),
    report: Callable[[Path], None] | None = None,
) -> float | None:
    """Do the whole job of a configuration.

    Args:
        cfg: the composed configuration.
        run_dir: for what the run makes.
        choices: which option of each config group was taken.
        overrides: what the user set.
        report: writes a page on the run into its folder, once it is complete; the loggers get it with the rest.

    Returns:
        The student's best epoch on validation data, by ``model.metric``; on the test data where they validate; ``None``
        without either.
    """
    task = task_of(cfg)
    run, resume, earlier = begin(cfg, run_dir)
    alone = bool(cfg.method.alone)
    summary = Summary(
        task=task.name,
        model=pair_name(cfg.model, choices["model"]),
        data=choices["data"],
        method="+".join(cfg.method.terms) or choices["method"],
        temperature=choices["temperature"],
        curriculum=choices["curriculum"],
        seed=cfg.seed,
        teacher=None if alone else NetworkSummary(cfg.model.teacher.name),
        student=NetworkSummary(cfg.model.student.name),
        baseline=NetworkSummary(cfg.model.student.name) if cfg.with_baseline else None,
        **describe_environment(),
    )
    summary.take_over(earlier)

    def close() -> None:
        print_table(summary, run)
        plot_training(run, validated_on=summary.best.chosen_on or "validation")
        if report is not None and summary.status == "complete":
            report(run.path)
        publish(loggers, run, tested_numbers(summary), summary.epochs)

    loggers: list[Logger] = []
    with ended(loggers), recorded(summary, run, close, going_on=earlier is not None, first_stage="teacher"):
        task.check()
        summary.precision = str(build.precision(cfg))
        say_how(cfg, summary.precision)
        summary.test_data, summary.num_classes = task.read(), task.data.num_classes
        teacher, student = (None, build.student(cfg, task.data)) if alone else build.networks(cfg, task.data)
        for network, found in ((teacher, summary.teacher), (student, summary.student), (student, summary.baseline)):
            if network is not None and found is not None:
                found.parameters = parameters_of(network)
        learning = task.learning(teacher, student)
        say_what_has_no_effect(summary, task, learning, overrides)
        if teacher is not None and cfg.teacher_cache not in ("off", "auto"):
            task.check_cacheable(learning)
        training = Training(
            cfg,
            run,
            learning.module,
            task.data,
            resume,
            lambda: task.save(student, run, summary.final),
            curriculum=learning.callback,
        )
        loggers += training.loggers

        if teacher is not None and summary.teacher is not None:
            summary.teacher.train_seconds = ready_teacher(cfg, teacher, task.data)
            if cfg.teacher.check:
                task.check_teacher(task.measure(teacher, "val"))
        baseline = None
        if summary.baseline is not None:
            summary.stage = summary.status = "baseline"
            write(summary, run)
            baseline, summary.baseline.train_seconds = ready_baseline(cfg, task.data, summary.precision)

        summary.stage = summary.status = "student"
        write(summary, run)
        task.fit_temperatures(learning)
        if teacher is not None:
            _cache_teacher(cfg, task, learning, summary.precision)
        if cfg.compile and isinstance(learning.module, DistillationModule | ClassifierModule):
            learning.module.compile_networks()
        seed_everything(cfg.seed, workers=True, verbose=False)  # whatever was drawn before
        try:
            training.run(summary)
        finally:
            if (known := task.known_share(learning)) is not None:
                summary.teacher_cache = known

        summary.stage = summary.status = "test"
        write(summary, run)
        networks = {"teacher": teacher, "student": student, "baseline": baseline}
        for role, network in networks.items():
            found = getattr(summary, role)
            if network is None or found is None:
                continue
            tested = task.measure(network, "test", role)
            for measure in MEASURES[task.name]:
                setattr(found, measure.name, tested[measure.name])
        if cfg.keep_outputs and training.trainer.is_global_zero:
            task.keep_outputs(learning, run)
    return best_of(summary)


def _cache_teacher(cfg: DictConfig, task: Task, learning: Learning, precision: str) -> None:
    """Keep the teacher's outputs, where that is asked for."""
    if cfg.teacher_cache == "off":
        return
    try:
        task.check_cacheable(learning)
        kept = task.cache_teacher(learning, cache_folder(cfg), precision)
    except UserError as error:
        if cfg.teacher_cache != "auto":
            raise
        log.warning("No teacher cache: %s", error)
        return
    log.info("Teacher cache: %s", kept)


def best_of(summary: Summary) -> float | None:
    """The student's best epoch, by the measure that chose it."""
    found = (getattr(summary.best, measure.name) for measure in BEST.values())
    return next((value for value in found if value is not None), None)


def tested_numbers(summary: Summary) -> dict[str, float]:
    """What came out, by metric name: the student's under the plain ones."""
    found = {}
    for role, network in (("test", summary.student), ("teacher", summary.teacher), ("baseline", summary.baseline)):
        for measure in MEASURES[summary.task]:
            if (value := getattr(network, measure.name, None)) is not None:
                found[f"{role}/{measure.name}"] = value
    return found


def say_how(cfg: DictConfig, precision: str) -> None:
    """On what the training runs."""
    accelerator = build.accelerator(cfg)
    layout = (
        ", channels-last" if build.channels_last(cfg) and build.task(cfg) in ("classification", "segmentation") else ""
    )
    log.info("Training on %s in %s%s; tests run in 32-true", accelerator, precision, layout)


def say_what_has_no_effect(summary: Summary, task: Task, learning: Learning, overrides: Sequence[str]) -> None:
    """Name the choices that change nothing, and warn of those that the user made for nothing."""
    for key in task.without_effect:
        if sets(overrides, key):
            rank_zero_warn(f"{key} has no effect: these networks' task is {task.name}; leave it out")
    softened = any(method.uses_temperature for method in learning.methods)
    if not softened:
        summary.without_effect.append("temperature")
    if not softened or not any(isinstance(part, LearnedTemperature) for part in learning.temperatures):
        summary.without_effect.append("curriculum")
    told = isinstance(learning.module, DistillationModule)  # which says of the temperature itself
    for group in summary.without_effect:
        if not sets(overrides, group) or (told and group == "temperature"):
            continue
        if not learning.methods:
            reason = f"method={summary.method} has no teacher and no temperature"
        elif not softened:
            reason = f"method={summary.method} softens no logits"
        else:
            reason = f"temperature={summary.temperature} does not learn; take temperature=global or instance"
        rank_zero_warn(f"{group}={getattr(summary, group)} has no effect: {reason}")
    if softened and task.temperature and summary.temperature in _OF_IMAGES:
        rank_zero_warn(
            f"temperature={summary.temperature} is learned in a range that CTKD has for classes of images, and the "
            f"task is {task.name}: take temperature={task.temperature}, or set its tau_init, tau_range and "
            "initial_value"
        )


def pair_name(model: DictConfig, choice: str) -> str:
    """The pair's, or the two networks' where one is replaced, on the command line or by an experiment."""
    pair = cast(DictConfig, OmegaConf.load(Path(config_dir()) / "model" / f"{choice}.yaml"))
    if all(model[role].name == pair[role].name for role in ("teacher", "student")):
        return choice
    return f"{model.teacher.name}_to_{model.student.name}"
