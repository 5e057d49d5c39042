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
from rich.filesize import decimal

from ctkd_lightning import build
from ctkd_lightning._files import user_path
from ctkd_lightning.data import ImageDataModule
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.configuration import config_dir
from ctkd_lightning.job.figures import plot_training
from ctkd_lightning.job.loggers import ended, publish
from ctkd_lightning.job.outputs import RecordingModule, add_temperatures, outputs_of, test_fingerprint
from ctkd_lightning.job.overrides import sets
from ctkd_lightning.job.preflight import check_settings
from ctkd_lightning.job.student import describe
from ctkd_lightning.job.summary import NetworkSummary, Summary, describe_environment, parameters_of
from ctkd_lightning.job.table import MEASURES, print_table
from ctkd_lightning.job.teacher import check_beats_chance, ready_baseline, ready_teacher
from ctkd_lightning.job.thresholds import fit_temperatures
from ctkd_lightning.job.training import Training, begin, recorded, run_test, write
from ctkd_lightning.models import save_student
from ctkd_lightning.modules import ClassifierModule, DistillationModule
from ctkd_lightning.teacher_cache.cached import check_cacheable
from ctkd_lightning.temperature import LearnedTemperature

log = logging.getLogger(__name__)


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
        The student's best validation top-1, percent; of the test data where they validate; ``None`` without either.
    """
    run, resume, earlier = begin(cfg, run_dir)
    alone = bool(cfg.method.alone)
    summary = Summary(
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
        check_settings(cfg)
        summary.precision = str(build.precision(cfg))
        say_how(cfg, summary.precision)
        data = build.data(cfg)
        summary.num_classes, summary.test_data = data.num_classes, test_fingerprint(data)
        teacher, student = (None, build.student(cfg, data)) if alone else build.networks(cfg, data)
        for network, found in ((teacher, summary.teacher), (student, summary.student), (student, summary.baseline)):
            if network is not None and found is not None:
                found.parameters = parameters_of(network)
        module = build.student_alone(cfg, student) if teacher is None else build.module(cfg, teacher, student, data)
        _say_what_has_no_effect(summary, module, overrides)
        if isinstance(module, DistillationModule) and cfg.teacher_cache not in ("off", "auto"):
            check_cacheable(module.distillation.teacher_needs)

        def save() -> None:
            save_student(student, run.student, describe(cfg, data, summary.final))

        training = Training(cfg, run, module, data, resume, save)
        loggers += training.loggers

        if teacher is not None and summary.teacher is not None:
            summary.teacher.train_seconds = ready_teacher(cfg, teacher, data)
            if cfg.teacher.check:
                top1 = run_test(cfg, ClassifierModule, teacher, data, "val")[0]["val/top1"]
                check_beats_chance(top1, data.num_classes, len(data.val_indices), cfg.model.teacher.name)
        baseline = None
        if summary.baseline is not None:
            summary.stage = summary.status = "baseline"
            write(summary, run)
            baseline, summary.baseline.train_seconds = ready_baseline(cfg, data, summary.precision)

        summary.stage = summary.status = "student"
        write(summary, run)
        if isinstance(module, DistillationModule):
            fit_temperatures(module, data)
        seed_everything(cfg.seed, workers=True, verbose=False)  # whatever the teacher's stage has drawn
        if isinstance(module, DistillationModule):
            _cache_teacher(cfg, module, data, summary.precision)
        if cfg.compile:
            module.compile_networks()
        try:
            training.run(summary)
        finally:
            cached = module.cached_teacher if isinstance(module, DistillationModule) else None
            if cached is not None and cached.asked:
                summary.teacher_cache = cached.known / cached.asked

        summary.stage = summary.status = "test"
        write(summary, run)
        tested = {}
        networks = {"teacher": teacher, "student": student, "baseline": baseline}
        for role, network in networks.items():
            found = getattr(summary, role)
            if network is None or found is None:
                continue
            metrics, tested[role] = run_test(cfg, RecordingModule, network, data)
            found.top1, found.top5 = metrics["test/top1"], metrics["test/top5"]
        if cfg.keep_outputs and training.trainer.is_global_zero:
            kept = outputs_of(tested, data.class_names)
            if isinstance(module, DistillationModule):
                add_temperatures(kept, module, data)
            kept.write(run)
    return summary.best.top1


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


def tested_numbers(summary: Summary) -> dict[str, float]:
    """What came out, by metric name: the student's under the plain ones."""
    found = {}
    for role, network in (("test", summary.student), ("teacher", summary.teacher), ("baseline", summary.baseline)):
        for name in MEASURES[summary.task]:
            if (value := getattr(network, name, None)) is not None:
                found[f"{role}/{name}"] = value
    return found


def say_how(cfg: DictConfig, precision: str) -> None:
    """On what the training runs."""
    accelerator = build.accelerator(cfg)
    layout = ", channels-last" if build.channels_last(cfg) and not build.detects(cfg) else ""
    log.info("Training on %s in %s%s; tests run in 32-true", accelerator, precision, layout)


def _say_what_has_no_effect(
    summary: Summary, module: DistillationModule | ClassifierModule, overrides: Sequence[str]
) -> None:
    """Name the choices that change nothing, and warn of those that the user made for nothing."""
    if isinstance(module, ClassifierModule):
        summary.without_effect += ["temperature", "curriculum"]
        for group in summary.without_effect:
            if sets(overrides, group):
                rank_zero_warn(f"{group}= has no effect: method={summary.method} has no teacher and no temperature")
        return
    if not module.uses_temperature:
        summary.without_effect.append("temperature")  # the module has said it
    learned = any(isinstance(t, LearnedTemperature) for t in module.distillation.temperatures)
    if module.uses_temperature and learned:
        return
    summary.without_effect.append("curriculum")
    if sets(overrides, "curriculum"):
        reason = f"temperature={summary.temperature} does not learn; take temperature=global or instance"
        if not module.uses_temperature:
            reason = f"method={summary.method} softens no logits"
        rank_zero_warn(f"curriculum={summary.curriculum} has no effect: {reason}")


def pair_name(model: DictConfig, choice: str) -> str:
    """The pair's, or the two networks' where one is replaced, on the command line or by an experiment."""
    pair = cast(DictConfig, OmegaConf.load(Path(config_dir()) / "model" / f"{choice}.yaml"))
    if all(model[role].name == pair[role].name for role in ("teacher", "student")):
        return choice
    return f"{model.teacher.name}_to_{model.student.name}"
