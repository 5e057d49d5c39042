"""Find, train or load the teacher."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig
from torch import nn

from ctkd_lightning import build
from ctkd_lightning._files import user_path, written_whole
from ctkd_lightning.data import ImageDataModule
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.configuration import plain
from ctkd_lightning.models import load_weights, pretrained_classes, save_weights
from ctkd_lightning.models._checkpoint import DamagedCheckpoint, read_state_dict
from ctkd_lightning.modules.classifier import ClassifierModule

log = logging.getLogger(__name__)


# Settings of the Trainer that say where and how to compute, not what.
_MACHINE_SETTINGS = ("accelerator", "devices", "num_nodes", "strategy", "precision", "max_epochs", "_target_")

# Settings of the teacher that its training does not read.
_NOT_TRAINED_WITH = ("checkpoint", "cache_dir", "check")

MakeTrainer = Callable[..., Trainer]
"""Makes a Trainer with the run's accelerator, strategy and precision, under other settings by keyword."""


def ready_teacher(cfg: DictConfig, network: nn.Module, data: ImageDataModule) -> None:
    """Give the teacher its weights where :func:`ctkd_lightning.build.networks` has not: found in the cache, or trained.

    Args:
        cfg: the configuration.
        network: the teacher; left frozen.
        data: what to train it on.
    """
    if cfg.teacher.checkpoint:
        return
    if cfg.model.teacher.get("pretrained"):
        if pretrained_classes(cfg.model.teacher.name) == data.num_classes:
            return
        log.info("The pretrained teacher's classes are not the data's: it gets a new last layer and is trained on")
    settings = {
        "data": data.fingerprint(),
        "batch_size": cfg.data.batch_size,
        "drop_last": cfg.data.drop_last,
        "network": plain(cfg.model.teacher),
        "training": {k: v for k, v in plain(cfg.teacher).items() if k not in _NOT_TRAINED_WITH},
        "trainer": {k: v for k, v in plain(cfg.trainer).items() if k not in _MACHINE_SETTINGS},
    }
    name = cfg.model.teacher.name.replace("/", "_")
    folder = user_path(cfg.teacher.cache_dir) / f"{name}-{data.name}-{teacher_key(settings)}"
    seed_everything(cfg.teacher.seed, workers=True, verbose=False)
    students_seed, data.seed = data.seed, cfg.teacher.seed  # the teacher is the same for every seed of the student
    network.requires_grad_(True).train()  # the student's module holds it frozen
    try:
        module, bar = build.teacher_module(cfg, network), build.progress_bar(cfg)

        def make_trainer(callbacks: list[Callback], **settings: Any) -> Trainer:
            return build.trainer(cfg, callbacks=[*callbacks, *bar], logger=False, **settings)

        train_teacher(module, data, folder, settings, make_trainer, max_epochs=cfg.teacher.max_epochs)
    finally:
        network.requires_grad_(False).eval()
        data.seed = students_seed


def teacher_key(settings: Mapping[str, Any]) -> str:
    """A short name for everything that decides a teacher's weights, the same on every machine."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


def train_teacher(
    module: ClassifierModule,
    data: LightningDataModule,
    folder: Path,
    settings: Mapping[str, Any],
    make_trainer: MakeTrainer,
    **trainer_settings: Any,
) -> None:
    """Train a teacher and keep its last weights in ``folder``; go on where an interrupted training stopped.

    Damaged files there are as good as none: the training writes them anew.

    Args:
        module: the teacher, left with the trained weights.
        data: what to train it on.
        folder: of this teacher alone; holds ``teacher.safetensors`` once the training is complete.
        settings: what decided the teacher, written beside the weights for the reader.
        make_trainer: makes the Trainer.
        **trainer_settings: for it, such as ``max_epochs``.

    Raises:
        UserError: a folder that cannot be written.
    """
    weights = folder / "teacher.safetensors"
    if _readable(weights, lambda path: load_weights(module.network, path), "trained anew"):
        log.info("Teacher found: %s", weights)
        return
    try:
        with written_whole(folder / "settings.json") as partial:
            partial.write_text(json.dumps(settings, indent=2, default=str) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write the teacher's folder {folder} ({error.strerror}): set teacher.cache_dir"
        ) from error

    last = folder / "last.ckpt"
    checkpoint = ModelCheckpoint(
        dirpath=folder, filename="last", auto_insert_metric_name=False, enable_version_counter=False
    )
    trainer = make_trainer(callbacks=[checkpoint], **trainer_settings)
    resume = _readable(last, read_state_dict, "trained from the start")
    log.info("Training the teacher%s; it is kept in %s", " from where it stopped" if resume else "", folder)
    trainer.fit(module, datamodule=data, ckpt_path=last if resume else None, weights_only=True)
    if trainer.is_global_zero:
        save_weights(module.network, weights)
        last.unlink(missing_ok=True)
    trainer.strategy.barrier("teacher saved")


def _readable(path: Path, read: Callable[[Path], object], otherwise: str) -> bool:
    # A damaged file is left to be replaced, not removed: another process may be about to read it, and all must agree.
    if not path.exists():
        return False
    try:
        read(path)
    except DamagedCheckpoint:
        log.warning("%s is empty, truncated or damaged; the teacher is %s", path, otherwise)
        return False
    return True


def check_beats_chance(top1: float, num_classes: int, samples: int, name: str) -> None:
    """Refuse a teacher that is no better than guessing: it would cost hours to learn that from the student.

    The bar is chance plus three standard deviations of a guesser's accuracy on as many samples.

    Args:
        top1: measured accuracy in percent.
        num_classes: C; a guesser is right once in C times.
        samples: how many the accuracy was measured on.
        name: of the teacher, for the message.

    Raises:
        UserError: an accuracy below the bar.
    """
    chance = 1.0 / num_classes
    bar = 100.0 * min(chance + 3.0 * math.sqrt(chance * (1.0 - chance) / samples), 1.0)
    if not top1 > bar:
        raise UserError(
            f"teacher {name} is no better than chance: top-1 {top1:.2f} % on {samples} validation images, "
            f"a guesser has {100 * chance:.2f} %; check its classes' order and its normalisation (data.mean, "
            "data.std), or train it longer (teacher.max_epochs)"
        )
