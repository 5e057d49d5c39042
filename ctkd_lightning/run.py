"""``python -m ctkd_lightning.run``: the teacher if need be, then the student, its test and the closing table."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.filesize import decimal
from torch import nn

from ctkd_lightning.cached_teacher import check_cacheable
from ctkd_lightning.callbacks.throughput import Throughput
from ctkd_lightning.cli import hydra_main
from ctkd_lightning.data.base import ImageDataModule
from ctkd_lightning.errors import UserError
from ctkd_lightning.figures import plot_training
from ctkd_lightning.hardware import accelerator_in_use, choose_channels_last, choose_precision
from ctkd_lightning.methods import Method
from ctkd_lightning.methods.check import check_number
from ctkd_lightning.metrics_csv import carry_over, read_rows
from ctkd_lightning.models import create_model, load_weights, save_weights
from ctkd_lightning.module import DistillationModule
from ctkd_lightning.summary import Summary, describe_environment, parameters_of, print_table, write_summary
from ctkd_lightning.supervised import ClassifierModule
from ctkd_lightning.teacher import check_beats_chance, teacher_key, train_teacher
from ctkd_lightning.temperature import Temperature

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
    Job(cfg, run_dir, dict(hydra_config.runtime.choices)).run()


def check_settings(cfg: DictConfig) -> None:
    """Refuse what could only fail later.

    Raises:
        UserError: naming the setting.
    """
    for key in ("max_epochs", "teacher.max_epochs"):
        epochs = OmegaConf.select(cfg, key)
        if not isinstance(epochs, int) or epochs < 1:
            raise UserError(f"{key} must be a whole number of at least 1, found {epochs}")
    make_temperature(cfg.temperature, num_classes=2)
    instantiate(cfg.curriculum)
    check_number("method.ce_weight", cfg.method.ce_weight, least=0)
    methods = instantiate(cfg.method.terms)
    if cfg.teacher_cache not in ("off", "auto"):
        check_cacheable(role for method in methods.values() for role in method.needs)
    check_optimizer(cfg.optimizer, "optimizer")
    check_optimizer(cfg.teacher, "teacher.optimizer")
    for key in ("teacher.checkpoint", "resume"):
        path = OmegaConf.select(cfg, key)
        if path is not None and path != "auto" and not Path(path).is_file():
            raise UserError(f"{key}: no file at {path}; give the path of one, or leave {key} out")


def make_temperature(node: DictConfig, num_classes: int) -> Temperature:
    """The temperature of a configuration node; those that want it are told the number of classes."""
    per_data = {"num_classes": num_classes} if "num_classes" in node else {}
    temperature: Temperature = instantiate(node, **per_data)
    return temperature


def check_optimizer(node: DictConfig, name: str) -> None:
    """Make an optimizer and its scheduler for nothing: their mistakes would show only after the teacher's training.

    Raises:
        UserError: naming the setting and what torch says of it.
    """
    try:
        optimizer = instantiate(node.optimizer)([nn.Parameter(torch.zeros(1))])
        if node.scheduler is not None:
            instantiate(node.scheduler)(optimizer)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: {node.optimizer._target_} or its scheduler cannot be made: {error}") from error


def count_processes(trainer: DictConfig) -> int:
    """How many processes on this machine a Trainer's settings ask for."""
    devices = trainer.devices
    if devices in ("auto", -1, "-1"):
        return torch.cuda.device_count() if accelerator_in_use(trainer.accelerator) == "cuda" else 1
    if isinstance(devices, str) and "," in devices:
        return len(devices.strip(",").split(","))
    if isinstance(devices, str):
        return int(devices) if devices.isdigit() else 1  # the Trainer says what is wrong with other words
    return devices if isinstance(devices, int) else len(devices)


class Job:
    """One teacher, one student, one run directory.

    Args:
        cfg: the composed configuration.
        run_dir: exists already.
        choices: which option of each config group was taken.
    """

    def __init__(self, cfg: DictConfig, run_dir: Path, choices: Mapping[str, str]) -> None:
        self.cfg = cfg
        self.run_dir = run_dir
        accelerator = accelerator_in_use(cfg.trainer.accelerator)
        self.precision = choose_precision(cfg.trainer.precision, accelerator)
        self.channels_last = choose_channels_last(cfg.channels_last, accelerator, self.precision)
        layout = ", channels-last" if self.channels_last else ""
        log.info("Training on %s in %s%s; tests run in 32-true", accelerator, self.precision, layout)
        self.summary: Summary = {
            **{group: choices[group] for group in ("model", "data")},
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

    def run(self) -> None:
        """Do the whole job; write ``summary.json`` and print the table also where the user stops it."""
        try:
            self._run_stages()
        except SystemExit:  # what Lightning makes of Ctrl-C
            self.summary["status"] = f"stopped in stage {self.summary['status']}"
            self._close()
            raise
        self.summary["status"] = "complete"
        self._close()

    def _run_stages(self) -> None:
        cfg = self.cfg
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
        return data

    def _check_networks(self, data: ImageDataModule) -> None:
        """Put the networks and the method together for nothing, before the teacher is trained for hours.

        Raises:
            UserError: a network that there is not, or a method that does not fit the two.
        """
        nodes = (self.cfg.model.teacher, self.cfg.model.student)
        teacher, student = (create_model(**_plain(node), num_classes=data.num_classes) for node in nodes)
        self._module(teacher, student, data)

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
        return network

    def _train_teacher(self, network: nn.Module, data: ImageDataModule) -> None:
        cfg = self.cfg
        settings = {
            "data": data.fingerprint(),
            "batch_size": cfg.data.batch_size,
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
        data.seed = cfg.teacher.seed  # the teacher is the same for every seed of the student
        train_teacher(module, data, folder, settings, self._trainer, max_epochs=cfg.teacher.max_epochs)
        data.seed = cfg.seed

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
        wanted = {name: node for name, node in self.cfg.callbacks.items() if name != "progress"}
        callbacks: list[Callback] = [*(instantiate(node, _convert_="all") for node in wanted.values()), throughput]
        loggers = instantiate(self.cfg.logger, _convert_="all")
        trainer = self._trainer(logger=list(loggers.values()), callbacks=callbacks)
        resume = self._resume_from()
        if resume and trainer.is_global_zero:
            epoch = torch.load(resume, map_location="cpu", weights_only=True)["epoch"]
            carry_over(read_rows(self.run_dir / "metrics.csv"), loggers["csv"], before_epoch=epoch + 1)
        started = time.perf_counter()
        try:
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        finally:
            self.summary["train_seconds"] = time.perf_counter() - started
            self._record(trainer, module, data, throughput)

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

    def _resume_from(self) -> Path | None:
        resume = self.cfg.resume
        if resume != "auto":
            return Path(resume) if resume else None
        last = self.run_dir / "checkpoints" / "last.ckpt"
        return last if last.is_file() else None

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
        chosen_on = self.summary["best"]["chosen_on"] or "validation"
        plot_training(self.run_dir, validated_on=chosen_on.removeprefix("best on "))
        print_table(self.summary, self.run_dir)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """A config node as plain Python."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


if __name__ == "__main__":
    main()
