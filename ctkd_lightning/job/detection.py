"""From a configuration to a distilled detector: the teacher if need be, then the student and the test."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn
from omegaconf import DictConfig
from torch import nn

from ctkd_lightning import build
from ctkd_lightning.callbacks import CurriculumTemperatureCallback
from ctkd_lightning.data import DetectionDataModule
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.figures import plot_training
from ctkd_lightning.job.loggers import ended, publish
from ctkd_lightning.job.overrides import sets
from ctkd_lightning.job.preflight import check_detection_settings
from ctkd_lightning.job.stages import pair_name, say_how, tested_numbers
from ctkd_lightning.job.summary import NetworkSummary, Summary, describe_environment, parameters_of
from ctkd_lightning.job.table import print_table
from ctkd_lightning.job.teacher import ready_baseline, ready_teacher
from ctkd_lightning.job.training import Training, begin, recorded, tester, write
from ctkd_lightning.methods import Method
from ctkd_lightning.models import save_weights
from ctkd_lightning.modules import DetectionModule
from ctkd_lightning.temperature import LearnedTemperature

log = logging.getLogger(__name__)

_OF_CLASSIFIERS = ("compile", "channels_last", "keep_outputs")
_FINDS_SOMETHING = 1.0
"""AP50, percent: less has only a teacher that has not learned, or whose labels are others."""


def detect(
    cfg: DictConfig,
    run_dir: str | Path,
    choices: Mapping[str, str],
    overrides: Sequence[str] = (),
    report: Callable[[Path], None] | None = None,
) -> float | None:
    """Do the whole job of a configuration whose networks are detectors.

    Args:
        cfg: the composed configuration.
        run_dir: for what the run makes.
        choices: which option of each config group was taken.
        overrides: what the user set.
        report: writes a page on the run into its folder, once it is complete; the loggers get it with the rest.

    Returns:
        The student's best mean average precision on validation data, percent; of the test data where they validate.
    """
    run, resume, earlier = begin(cfg, run_dir)
    alone = bool(cfg.method.alone)
    summary = Summary(
        task="detection",
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
        check_detection_settings(cfg)
        summary.precision = str(build.precision(cfg))
        say_how(cfg, summary.precision)
        data = build.detection_data(cfg)
        summary.num_classes, summary.test_data = data.num_classes, data.test_fingerprint()
        teacher, student = (None, build.student(cfg, data)) if alone else build.networks(cfg, data)
        for network, found in ((teacher, summary.teacher), (student, summary.student), (student, summary.baseline)):
            if network is not None and found is not None:
                found.parameters = parameters_of(network)
        distilled = None if teacher is None else build.detector_distillation(cfg, teacher, data)
        _say_what_has_no_effect(summary, distilled, overrides)

        def save() -> None:
            save_weights(student, run.student)

        training = Training(cfg, run, build.detector_module(cfg, student), data, resume, save, curriculum=distilled)
        loggers += training.loggers

        if teacher is not None and summary.teacher is not None:
            summary.teacher.train_seconds = ready_teacher(cfg, teacher, data)
            if cfg.teacher.check:
                _check_finds(measured(cfg, teacher, data, "val"), cfg.model.teacher.name)
        baseline = None
        if summary.baseline is not None:
            summary.stage = summary.status = "baseline"
            write(summary, run)
            baseline, summary.baseline.train_seconds = ready_baseline(cfg, data, summary.precision)

        summary.stage = summary.status = "student"
        write(summary, run)
        seed_everything(cfg.seed, workers=True, verbose=False)  # whatever the teacher's stage has drawn
        training.run(summary)

        summary.stage = summary.status = "test"
        write(summary, run)
        networks = {"teacher": teacher, "student": student, "baseline": baseline}
        for role, network in networks.items():
            found = getattr(summary, role)
            if network is not None and found is not None:
                numbers = measured(cfg, network, data, "test")
                found.map, found.ap50 = numbers["map"], numbers["ap50"]
    return summary.best.map


def measured(cfg: DictConfig, network: nn.Module, data: DetectionDataModule, stage: str) -> dict[str, float]:
    """Average precisions of a detector on validation or test data, in float32 whatever the training's precision."""
    trainer = tester(cfg)
    evaluate: Any = trainer.validate if stage == "val" else trainer.test
    evaluate(DetectionModule(network.float()), datamodule=data, verbose=False)
    return {name.removeprefix(f"{stage}/"): float(value) for name, value in trainer.callback_metrics.items()}


def _check_finds(found: Mapping[str, float], name: str) -> None:
    """Refuse a teacher that finds nothing: it would cost hours to learn that from the student.

    Raises:
        UserError: an AP50 below one percent.
    """
    if not found["ap50"] >= _FINDS_SOMETHING:
        raise UserError(
            f"teacher {name} finds nothing: AP50 {found['ap50']:.2f} % on the validation images; check its classes' "
            "order (data.labels of data=coco), or train it longer (teacher.max_epochs)"
        )


def _say_what_has_no_effect(
    summary: Summary, distilled: CurriculumTemperatureCallback | None, overrides: Sequence[str]
) -> None:
    """Name the choices that change nothing, and warn of those that the user made for nothing."""
    for key in _OF_CLASSIFIERS:
        if sets(overrides, key):
            rank_zero_warn(f"{key} has no effect: it is of classifiers, and these networks are detectors; leave it out")
    methods = [] if distilled is None else list(distilled.methods.values())
    if not any(cast(Method, method).uses_temperature for method in methods):
        summary.without_effect.append("temperature")
    learned = distilled is not None and any(
        isinstance(part, LearnedTemperature) for part in distilled.temperature.modules()
    )
    if not learned or summary.without_effect:
        summary.without_effect.append("curriculum")
    for group in summary.without_effect:
        if sets(overrides, group):
            reason = "has no teacher and no temperature" if distilled is None else "softens no scores"
            why = f"method={summary.method} {reason}"
            if "temperature" not in summary.without_effect:
                why = f"temperature={summary.temperature} does not learn; take temperature=global or instance"
            rank_zero_warn(f"{group}={getattr(summary, group)} has no effect: {why}")
