"""From a configuration to a fusion of several modalities: the encoders if need be, then the fusion and its tests."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from omegaconf import DictConfig
from torch import Tensor, nn

from ctkd_lightning import build
from ctkd_lightning._modes import evaluating
from ctkd_lightning.data import MultimodalDataModule
from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.fusion import ModalityCorruption
from ctkd_lightning.fusion.calibration import check_fittable, fit_to, forget_fit
from ctkd_lightning.job.figures import plot_training
from ctkd_lightning.job.fusion_figures import plot_conditions, plot_temperatures
from ctkd_lightning.job.fusion_table import print_fusion_table
from ctkd_lightning.job.loggers import beside_another, ended, publish
from ctkd_lightning.job.overrides import sets
from ctkd_lightning.job.preflight import check_fusion_settings
from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.job.summary import FusionSummary, describe_environment, parameters_of
from ctkd_lightning.job.training import Training, begin, recorded, tester, write
from ctkd_lightning.models import load_weights, save_weights
from ctkd_lightning.modules import FusionModule, SupervisedModule
from ctkd_lightning.temperature import LearnedTemperature

log = logging.getLogger(__name__)

_OF_STUDENTS = ("method", "temperature", "temperature_per_method", "student_layers")
_OF_DISTILLATIONS = (
    "model", "teacher", "teacher_layers", "teacher_cache", "compile", "channels_last", "with_baseline",
    "keep_outputs", "report", *_OF_STUDENTS,
)  # fmt: skip


def fuse(
    cfg: DictConfig, run_dir: str | Path, choices: Mapping[str, str], overrides: Sequence[str] = ()
) -> float | None:
    """Do the whole job of a configuration with a ``fusion``.

    Args:
        cfg: the composed configuration.
        run_dir: for what the run makes.
        choices: which option of each config group was taken.
        overrides: what the user set.

    Returns:
        The best validation top-1 of the fused scores, percent.
    """
    run, resume, earlier = begin(cfg, run_dir)
    summary = FusionSummary(
        data=choices["data"],
        encoders=str(choices["encoders"]),
        fusion=choices["fusion"],
        temperature=choices["fusion"],
        curriculum=choices["curriculum"],
        seed=cfg.seed,
        **describe_environment(),
    )
    summary.take_over(earlier)
    told: dict[str, Any] = {}

    def close() -> None:
        print_fusion_table(summary, run)
        plot_training(run, validated_on=summary.best.chosen_on or "validation")
        plot_conditions(summary, run)
        plot_temperatures(told, run)
        tested = summary.conditions.items()
        numbers = {f"test/{name}/{who}": top1 for name, found in tested for who, top1 in found.items()}
        numbers |= {f"student/{how}": top1 for how, top1 in (summary.student or {}).items()}
        publish(loggers, run, numbers, summary.epochs)

    loggers: list[Logger] = []
    with ended(loggers), recorded(summary, run, close, going_on=earlier is not None, first_stage="encoders"):
        check_fusion_settings(cfg)
        _say_what_has_no_effect(cfg, overrides)
        summary.precision = str(build.precision(cfg))
        data = build.multimodal_data(cfg)
        encoders = build.encoders(cfg, data)
        module = build.fusion_module(cfg, encoders, build.fusion(cfg, encoders, data))
        conditions = build.conditions(cfg)
        for corruption in conditions.values():
            if corruption is not None:
                corruption.check(module.fusion.modalities)
        _check_fit(cfg, module, data)
        _check_student(cfg, module)
        summary.modalities, summary.parameters = list(module.fusion.modalities), parameters_of(module.network)
        if not isinstance(module.fusion.temperature, LearnedTemperature):
            summary.without_effect.append("curriculum")
            if sets(overrides, "curriculum"):
                rank_zero_warn(
                    f"curriculum={summary.curriculum} has no effect: fusion={summary.fusion} does not learn its "
                    "temperatures; take fusion=global or instance"
                )
        log.info("Fusing %s on %s in %s", ", ".join(summary.modalities), build.accelerator(cfg), summary.precision)
        training = Training(cfg, run, module, data, resume, lambda: save_weights(module.network, run.fused))

        loggers += training.loggers

        if cfg.fusion.frozen:
            _train_encoders(cfg, module, data, run)
        summary.stage = summary.status = "fusion"
        write(summary, run)
        seed_everything(cfg.seed, workers=True, verbose=False)  # whatever the encoders' stage has drawn
        with _silent_of_eval_mode(module.network.encoders):
            training.run(summary)
        if cfg.fusion.fit_temperatures:
            summary.fitted = _fit(module, data)
            rank_zero_only(save_weights)(module.network, run.fused)  # the factors are among them

        summary.stage = summary.status = "test"
        write(summary, run)
        for name, corruption in conditions.items():
            summary.conditions[name], told[name] = _test(cfg, module, data, corruption)
        if cfg.fusion.student is not None:
            summary.stage = summary.status = "student"
            write(summary, run)
            summary.student = _distil(cfg, module, data, run)
    return summary.best.top1


def _check_fit(cfg: DictConfig, module: FusionModule, data: MultimodalDataModule) -> None:
    """Find now what would go wrong, or be done on test samples, after the training."""
    if not cfg.fusion.fit_temperatures:
        return
    if data.validates_on_test:
        raise UserError(
            "fusion.fit_temperatures=true fits on validation samples, and with data.val_size=0 those are the "
            "test's: set data.val_size above 0, or leave fusion.fit_temperatures out"
        )
    check_fittable(module.fusion)


def _check_student(cfg: DictConfig, module: FusionModule) -> None:
    """Find now what would go wrong after the teacher's training."""
    name, modalities = cfg.fusion.student, module.fusion.modalities
    if name is None:
        return
    if name not in modalities:
        raise UserError(f"fusion.student={name} is no modality of these data: {suggest(name, modalities)}")
    build.temperature(cfg, build.methods_of_fusion(cfg), module.fusion.num_classes or 0)


def _distil(cfg: DictConfig, module: FusionModule, data: MultimodalDataModule, run: RunDirectory) -> dict[str, float]:
    """Distil the fused network into a new encoder of one modality; test top-1 of that one and of one without teacher.

    Its files are those of a run of their own, in the run's folder.
    """
    name = cfg.fusion.student
    own = RunDirectory(run.path / "student")
    cfg = cast(DictConfig, copy.deepcopy(cfg))
    cfg.run_dir = str(own)
    resume = own.resume_from("auto") if cfg.resume else None

    alone = build.encoder_alone(cfg, build.encoders(cfg, data)[name], name)
    build.trainer(cfg, callbacks=build.progress_bar(cfg), logger=False).fit(alone, datamodule=data)
    top1_alone = _top1(cfg, alone, data)

    student = build.encoders(cfg, data)[name]  # from the same start
    distilled = build.student_of_fusion(cfg, module.network, student, name, data)

    def save() -> None:
        save_weights(student, own.student)

    Training(cfg, own, distilled, data, resume, save, beside_another(build.loggers(cfg), own)).fit()
    rank_zero_only(save)()
    return {"alone": top1_alone, "distilled": _top1(cfg, distilled, data)}


def _top1(cfg: DictConfig, module: SupervisedModule, data: MultimodalDataModule) -> float:
    trainer = tester(cfg)
    trainer.test(module, datamodule=data, verbose=False)
    return float(trainer.callback_metrics["test/top1"])


def _train_encoders(cfg: DictConfig, module: FusionModule, data: MultimodalDataModule, run: RunDirectory) -> None:
    """Give the frozen encoders their weights: of the file named, of this run's earlier part, or trained now."""
    encoders = module.network.encoders
    path = cfg.fusion.encoder_weights
    if path:
        load_weights(encoders, path)
        return
    if cfg.resume and run.encoders.is_file():
        load_weights(encoders, run.encoders)
        return
    log.info("Training the encoders, each by itself, for %s epochs", cfg.fusion.encoder_epochs)
    encoders.requires_grad_(True).train()  # the fused network holds them frozen
    own = build.encoders_module(cfg, cast(Mapping[str, nn.Module], encoders))
    try:
        trainer = build.trainer(
            cfg,
            callbacks=build.progress_bar(cfg),
            logger=False,
            max_epochs=cfg.fusion.encoder_epochs,
            limit_val_batches=0,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You passed in a `val_dataloader` but have no `validation_step`")
            trainer.fit(own, datamodule=data)
    finally:
        encoders.requires_grad_(False)
        module.network.train(module.network.training)
    rank_zero_only(save_weights)(encoders, run.encoders)
    trainer.strategy.barrier("encoders saved")


@contextmanager
def _silent_of_eval_mode(encoders: nn.Module) -> Iterator[None]:
    """Lightning warns of modules in eval mode by their number alone: be silent where it is that of frozen encoders."""
    count = sum(not part.training for part in encoders.modules())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", rf"Found {count} module\(s\) in eval mode")
        yield


class _Outputs(Callback):
    """Keep what the test's steps give, on this process."""

    def __init__(self) -> None:
        self.parts: list[Any] = []

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Keep one."""
        self.parts.append(outputs)

    def joined(self, kind: str) -> dict[str, Tensor]:
        """One kind of them, by name, over all batches, on the CPU."""
        return {name: torch.cat([part[kind][name] for part in self.parts]).cpu() for name in self.parts[0][kind]}


def _test(
    cfg: DictConfig, module: FusionModule, data: MultimodalDataModule, corruption: ModalityCorruption | None
) -> tuple[dict[str, float], dict[str, dict[str, Tensor]]]:
    """Accuracies of the fused scores, of each modality and of the plain fusions on corrupted test data.

    And τ of this process's samples by modality, and which of them are corrupted.
    """
    outputs = _Outputs()
    trainer = tester(cfg, outputs)
    module.test_corruption = corruption
    try:
        trainer.test(module, datamodule=data, verbose=False)
    finally:
        module.test_corruption = None
    logged = {name.removeprefix("test/"): float(value) for name, value in trainer.callback_metrics.items()}
    metrics = {name: value for name, value in logged.items() if not math.isnan(value)}  # the others are undefined
    found = {"fused": metrics["top1"]}
    found |= {name.removeprefix("top1/"): value for name, value in metrics.items() if name.startswith("top1/")}
    found |= {name: value for name, value in metrics.items() if name.startswith("auroc/")}
    return found, {kind: outputs.joined(kind) for kind in ("tau", "bad")}


@torch.no_grad()
def _fit(module: FusionModule, data: MultimodalDataModule) -> dict[str, float]:
    """Temperature scaling on the validation data, all of them, on each process alike."""
    batch = {name: values.to(module.device) for name, values in data.validation_batch().items()}
    network = module.network
    forget_fit(module.fusion)
    with evaluating(network):
        output = network.run(batch)
    return fit_to(module.fusion, output.experts, output.tau, batch["target"])


def _say_what_has_no_effect(cfg: DictConfig, overrides: Sequence[str]) -> None:
    for key in _OF_DISTILLATIONS:
        if not (cfg.fusion.student is not None and key in _OF_STUDENTS) and sets(overrides, key):
            rank_zero_warn(
                f"{key} has no effect: this run fuses modalities, and distils no image teacher; leave it out"
            )
    if cfg.fusion.encoder_weights and sets(overrides, "fusion.encoder_epochs"):
        rank_zero_warn("fusion.encoder_epochs has no effect: fusion.encoder_weights are not trained; leave it out")
    if cfg.fusion.frozen is False and sets(overrides, "fusion.encoder_epochs"):
        rank_zero_warn(
            "fusion.encoder_epochs has no effect: encoders and fusion train together; set fusion.frozen=true"
        )
