"""``python -m ctkd_lightning.run``: the teacher if need be, then the student, its test and the closing table."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from omegaconf import DictConfig, OmegaConf
from rich.filesize import decimal
from torch import nn

from ctkd_lightning.callbacks._throughput import Throughput
from ctkd_lightning.data._base import ImageDataModule
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.command import hydra_main
from ctkd_lightning.job.figures import plot_training
from ctkd_lightning.job.hardware import accelerator_in_use, choose_channels_last, choose_precision
from ctkd_lightning.job.metrics import carry_over, read_rows
from ctkd_lightning.job.preflight import (
    check_resumable,
    check_settings,
    count_processes,
    make_temperature,
    read_resumable,
    resume_path,
)
from ctkd_lightning.job.summary import (
    Summary,
    describe_environment,
    parameters_of,
    print_table,
    read_summary,
    write_summary,
)
from ctkd_lightning.job.teacher import check_beats_chance, teacher_key, train_teacher
from ctkd_lightning.methods import Method
from ctkd_lightning.models import create_model, load_weights, pretrained_classes, save_weights
from ctkd_lightning.modules.classifier import ClassifierModule
from ctkd_lightning.modules.distillation import DistillationModule
from ctkd_lightning.temperature import LearnedTemperature, Temperature

log = logging.getLogger("ctkd_lightning.run")  # under python -m, __name__ is __main__

# Warnings about what is as it should be here.
_EXPECTED_WARNINGS = (
    "Experiment logs directory .* exists and is not empty",  # by Hydra; a resumed run keeps its rows
    "Checkpoint directory .* exists and is not empty",
    "The number of training batches .* is smaller than the logging interval",  # metrics are logged by epoch
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
)

# Settings of the Trainer that say where and how to compute, not what.
_MACHINE_SETTINGS = ("accelerator", "devices", "num_nodes", "strategy", "precision", "max_epochs", "_target_")


def main() -> None:
    """Entry point of the command."""
    hydra_main("config", run)


def run(cfg: DictConfig) -> None:
    """Run one job; a sweep's job of several processes gets an interpreter of its own.

    Each of its processes starts from the command line and would start the whole sweep again.
    """
    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    check_settings(cfg)
    hydra_config = HydraConfig.get()
    run_dir = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode == RunMode.MULTIRUN and count_processes(cfg.trainer) > 1:
        overrides = [override for override in hydra_config.overrides.task if not override.startswith("run_dir=")]
        job = subprocess.run([sys.executable, "-m", "ctkd_lightning.run", *overrides, f"run_dir='{run_dir}'"])
        if job.returncode:
            raise UserError(f"the sweep's job in {run_dir} failed with status {job.returncode}; see its messages above")
        return
    Job(cfg, run_dir, dict(hydra_config.runtime.choices), list(hydra_config.overrides.task)).run()


class Job:
    """One teacher, one student, one run directory.

    Args:
        cfg: the composed configuration.
        run_dir: exists already.
        choices: which option of each config group was taken.
        overrides: what the user set.
    """

    def __init__(
        self, cfg: DictConfig, run_dir: Path, choices: Mapping[str, str], overrides: Sequence[str] = ()
    ) -> None:
        self.cfg = cfg
        self.run_dir = run_dir
        self.resume = resume_path(cfg.resume, run_dir)
        accelerator = accelerator_in_use(cfg.trainer.accelerator)
        self.precision = choose_precision(cfg.trainer.precision, accelerator)
        self.channels_last = choose_channels_last(cfg.channels_last, accelerator, self.precision)
        layout = ", channels-last" if self.channels_last else ""
        log.info("Training on %s in %s%s; tests run in 32-true", accelerator, self.precision, layout)
        self.summary: Summary = {
            "model": _pair_name(cfg.model, choices["model"], overrides),
            "data": choices["data"],
            "method": "+".join(cfg.method.terms),
            **{group: choices[group] for group in ("temperature", "curriculum")},
            "seed": cfg.seed,
            "status": "teacher",
            "epochs": 0,
            "teacher": {"name": cfg.model.teacher.name, "parameters": None, "top1": None, "top5": None},
            "student": {"name": cfg.model.student.name, "parameters": None, "top1": None, "top5": None},
            "best": {"top1": None, "epoch": None, "chosen_on": None},
            "final": {},
            "teacher_cache": None,
            "train_seconds": 0.0,
            "images_per_second": None,
            "precision": str(self.precision),
            **describe_environment(),
        }
        parts = make_temperature(cfg.temperature, num_classes=2).modules()
        fixed = not any(isinstance(part, LearnedTemperature) for part in parts)
        if fixed and _sets(overrides, "curriculum"):
            rank_zero_warn(
                f"curriculum={self.summary['curriculum']} has no effect: temperature={self.summary['temperature']} "
                "does not learn; take temperature=global or instance"
            )
            self.summary["curriculum"] += " (no effect)"

    def run(self) -> None:
        """Do the whole job; write ``summary.json`` and print the table also where the user stops it."""
        try:
            self._run_stages()
        except (SystemExit, KeyboardInterrupt) as stop:  # Lightning makes the first of Ctrl-C and SIGTERM
            self.summary["status"] = f"stopped in stage {self.summary['status']}"
            self._close()
            if isinstance(stop, KeyboardInterrupt):
                raise SystemExit(130) from stop
            raise SystemExit(stop.code or 143) from stop  # what ends a job early must not look like success
        self.summary["status"] = "complete"
        self._close()

    def _run_stages(self) -> None:
        cfg = self.cfg
        self._check_trainer()
        data = self._data()
        self._check_networks(data)
        teacher = self._teacher(data)
        self._check_teacher(teacher, data)

        self.summary["status"] = "student"
        seed_everything(
            cfg.seed, workers=True, verbose=False
        )  # the student's start does not depend on the teacher's stage
        student = create_model(**_plain(cfg.model.student), num_classes=data.num_classes)
        self.summary["student"]["parameters"] = parameters_of(student)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # _check_networks has said it
            module = self._module(teacher, student, data)
        if not module.uses_temperature:
            self.summary["temperature"] += " (no effect)"
        self._cache_teacher(module, data)
        if cfg.compile:
            module.compile_networks()
        self._train(module, data)

        self.summary["status"] = "test"
        for role, network in (("teacher", teacher), ("student", student)):
            metrics = self._evaluate(network, data, "test")
            self.summary[role] |= {"top1": metrics["test/top1"], "top5": metrics["test/top5"]}

    def _data(self) -> ImageDataModule:
        data: ImageDataModule = instantiate(self.cfg.data, channels_last=self.channels_last, _convert_="all")
        rank_zero_only(data.prepare_data)()
        data.setup("fit")
        data.setup("test")  # what is wrong with it shows now, not after the training
        return data

    def _check_trainer(self) -> None:
        """Make Trainer, callbacks and loggers for nothing: their mistakes would show only after the teacher's stage."""
        self._trainer(callbacks=self._callbacks(), logger=list(self._loggers().values()))

    def _callbacks(self) -> list[Callback]:
        """The configured ones but the progress bar, which every Trainer of the run has."""
        left_out = {"progress"} if self.cfg.logger else {"progress", "learning_rate"}
        wanted = {name: node for name, node in self.cfg.callbacks.items() if name not in left_out}
        return [instantiate(node, _convert_="all") for node in wanted.values()]

    def _loggers(self) -> dict[str, Any]:
        return instantiate(self.cfg.logger, _convert_="all") or {}

    def _check_networks(self, data: ImageDataModule) -> None:
        """Put the networks and the method together for nothing, before the teacher is trained for hours.

        Raises:
            UserError: a network that there is not, or a method that does not fit the two.
        """
        nodes = (self.cfg.model.teacher, self.cfg.model.student)
        # without their weights, which need not be there yet
        teacher, student = (
            create_model(**_plain(node) | {"pretrained": False}, num_classes=data.num_classes) for node in nodes
        )
        module = self._module(teacher, student, data)
        if self.resume:
            check_resumable(self.resume, module)

    def _teacher(self, data: ImageDataModule) -> nn.Module:
        """The teacher with its weights: given, pretrained, found in the cache, or trained now."""
        cfg = self.cfg
        seed_everything(cfg.teacher.seed, workers=True, verbose=False)
        network = create_model(**_plain(cfg.model.teacher), num_classes=data.num_classes)
        self.summary["teacher"]["parameters"] = parameters_of(network)
        if cfg.teacher.checkpoint:
            load_weights(network, cfg.teacher.checkpoint)
        elif not cfg.model.teacher.get("pretrained"):
            self._train_teacher(network, data)
        elif pretrained_classes(cfg.model.teacher.name) != data.num_classes:
            log.info("The pretrained teacher's classes are not the data's: it gets a new last layer and is trained on")
            self._train_teacher(network, data)
        return network

    def _train_teacher(self, network: nn.Module, data: ImageDataModule) -> None:
        cfg = self.cfg
        settings = {
            "data": data.fingerprint(),
            "batch_size": cfg.data.batch_size,
            "drop_last": cfg.data.drop_last,
            "network": _plain(cfg.model.teacher),
            "training": {k: v for k, v in _plain(cfg.teacher).items() if k not in ("checkpoint", "cache_dir")},
            "trainer": {k: v for k, v in _plain(cfg.trainer).items() if k not in _MACHINE_SETTINGS},
        }
        name = cfg.model.teacher.name.replace("/", "_")
        folder = Path(cfg.teacher.cache_dir).expanduser() / f"{name}-{data.name}-{teacher_key(settings)}"
        module = ClassifierModule(
            network,
            optimizer=instantiate(cfg.teacher.optimizer),
            scheduler=instantiate(cfg.teacher.scheduler),
            channels_last=self.channels_last,
        )
        students_seed, data.seed = data.seed, cfg.teacher.seed  # the teacher is the same for every seed of the student
        train_teacher(module, data, folder, settings, self._trainer, max_epochs=cfg.teacher.max_epochs)
        data.seed = students_seed

    def _check_teacher(self, teacher: nn.Module, data: ImageDataModule) -> None:
        if self.cfg.teacher.check:
            top1 = self._evaluate(teacher, data, "val")["val/top1"]
            check_beats_chance(top1, data.num_classes, len(data.val_indices), self.cfg.model.teacher.name)

    def _module(self, teacher: nn.Module, student: nn.Module, data: ImageDataModule) -> DistillationModule:
        cfg = self.cfg
        methods: dict[str, Method] = instantiate(cfg.method.terms, _convert_="all")
        return DistillationModule(
            teacher,
            student,
            method=methods,
            temperature=self._temperature(methods, data),
            ce_weight=cfg.method.ce_weight,
            example_image=data.example_image,
            student_layers=cfg.student_layers,
            teacher_layers=cfg.teacher_layers,
            num_samples=len(data.train_targets),
            optimizer=instantiate(cfg.optimizer.optimizer),
            scheduler=instantiate(cfg.optimizer.scheduler),
            channels_last=self.channels_last,
        )

    def _cache_teacher(self, module: DistillationModule, data: ImageDataModule) -> None:
        """Keep the teacher's outputs, where that is asked for."""
        setting, default = self.cfg.teacher_cache, Path(self.cfg.teacher.cache_dir).parent / "teacher_outputs"
        if setting == "off":
            return
        try:
            cached = module.cache_teacher(
                data, default if setting == "auto" else setting, precision=str(self.precision)
            )
        except UserError as error:
            if setting != "auto":
                raise
            log.warning("No teacher cache: %s", error)
            return
        log.info("Teacher cache: %s, %s", cached.store.path, decimal(cached.store.nbytes))

    def _temperature(
        self, methods: Mapping[str, Method], data: ImageDataModule
    ) -> Temperature | dict[str, Temperature]:
        """One temperature, or one for each method that softens logits."""
        cfg = self.cfg.temperature
        softened = [name for name, method in methods.items() if method.uses_temperature]
        if self.cfg.temperature_per_method and softened:
            return {name: make_temperature(cfg, data.num_classes) for name in softened}
        return make_temperature(cfg, data.num_classes)

    def _train(self, module: DistillationModule, data: ImageDataModule) -> None:
        throughput = Throughput()
        loggers = self._loggers()
        trainer = self._trainer(logger=list(loggers.values()), callbacks=[*self._callbacks(), throughput])
        earlier: Summary = {}
        if self.resume and trainer.is_global_zero:
            epoch = read_resumable(self.resume)["epoch"]
            if "csv" in loggers:
                carry_over(read_rows(self.run_dir / "metrics.csv"), loggers["csv"], before_epoch=epoch + 1)
            earlier = read_summary(self.run_dir)
        started = time.perf_counter()
        try:
            trainer.fit(module, datamodule=data, ckpt_path=self.resume, weights_only=True)
        finally:
            self.summary["train_seconds"] = time.perf_counter() - started
            self._record(trainer, module, data, throughput)
            self._add_earlier(earlier)

    def _add_earlier(self, earlier: Summary) -> None:
        """Count the part of the training before a resume, and keep what this part had no time to measure."""
        self.summary["train_seconds"] += earlier.get("train_seconds") or 0.0
        for key in ("final", "images_per_second", "teacher_cache"):
            self.summary[key] = self.summary[key] or earlier.get(key) or self.summary[key]

    def _record(
        self, trainer: Trainer, module: DistillationModule, data: ImageDataModule, throughput: Throughput
    ) -> None:
        """Keep what the training came to, whole or stopped: numbers for the summary, and the student's weights."""
        finished = trainer.current_epoch
        self.summary["epochs"] = finished
        if module.cached_teacher and module.cached_teacher.asked:
            self.summary["teacher_cache"] = module.cached_teacher.known / module.cached_teacher.asked
        if throughput.images_per_second:
            self.summary["images_per_second"] = throughput.images_per_second * trainer.world_size
        self.summary["final"] = {
            name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("ctkd/")
        }
        best = next((c for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None) == "val/top1"), None)
        if isinstance(best, ModelCheckpoint) and best.best_model_score is not None:
            best_epoch = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["epoch"] + 1
            self.summary["best"] = {
                "top1": float(best.best_model_score),
                "epoch": best_epoch,
                "chosen_on": "best on test" if data.validates_on_test else "best on validation",
            }
        if trainer.is_global_zero:
            save_weights(module.student, self.run_dir / "student.safetensors")

    def _evaluate(self, network: nn.Module, data: ImageDataModule, stage: str) -> Mapping[str, float]:
        """Accuracy of a network on validation or test data, in float32 whatever the training's precision."""
        trainer = self._trainer(precision="32-true")
        evaluate: Callable[..., Any] = trainer.validate if stage == "val" else trainer.test
        evaluate(ClassifierModule(network, channels_last=self.channels_last), datamodule=data, verbose=False)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    def _trainer(self, **settings: Any) -> Trainer:
        """A Trainer as the run's, with its progress bar; ``settings`` come before the run's."""
        defaults = {"precision": self.precision, "logger": False, "default_root_dir": str(self.run_dir)}
        callbacks = settings.pop("callbacks", [])
        checkpoints = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
        if "progress" in self.cfg.callbacks:
            callbacks = [*callbacks, instantiate(self.cfg.callbacks.progress)]
        settings = defaults | {"enable_checkpointing": checkpoints, "callbacks": callbacks} | settings
        trainer: Trainer = instantiate(self.cfg.trainer, **settings, _convert_="all")
        return trainer

    @rank_zero_only
    def _close(self) -> None:
        write_summary(self.summary, self.run_dir)
        print_table(self.summary, self.run_dir)
        chosen_on = self.summary["best"]["chosen_on"] or "validation"
        plot_training(self.run_dir, validated_on=chosen_on.removeprefix("best on "))


def _sets(overrides: Sequence[str], key: str) -> bool:
    """Whether the user set something at or below a key."""
    return any(re.match(rf"[+~]*{re.escape(key)}[.=]", override) for override in overrides)


def _pair_name(model: DictConfig, choice: str, overrides: Sequence[str]) -> str:
    """The pair's, or the two networks' where the user has replaced one."""
    if not any(_sets(overrides, f"model.{role}") for role in ("teacher", "student")):
        return choice
    return f"{model.teacher.name}_to_{model.student.name}"


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """A config node as plain Python."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


if __name__ == "__main__":
    main()
