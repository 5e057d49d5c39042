"""Find, train or load what a run needs beside its student: the teacher, and the student alone."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from omegaconf import DictConfig
from safetensors import safe_open
from torch import nn

from ctkd_lightning import build
from ctkd_lightning._files import owned, user_path, written_whole
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.configuration import plain
from ctkd_lightning.job.preflight import all_processes
from ctkd_lightning.models import load_weights, pretrained_classes, save_weights
from ctkd_lightning.models._checkpoint import DamagedCheckpoint, read_state_dict
from ctkd_lightning.modules import ClassifierModule, DetectionModule

log = logging.getLogger(__name__)


# Settings of the Trainer that say where and how to compute, not what.
_MACHINE_SETTINGS = (
    "accelerator", "devices", "num_nodes", "strategy", "precision", "deterministic", "max_epochs", "_target_",
)  # fmt: skip

# Settings of the teacher that its training does not read.
_NOT_TRAINED_WITH = ("checkpoint", "cache_dir", "check", "data")

_PATIENCE = 2.0  # seconds until another look at a folder that another run has
_SECONDS = "train_seconds"  # in the weights' file: how long their training took

MakeTrainer = Callable[..., Trainer]
"""Makes a Trainer with the run's accelerator, strategy and precision, under other settings by keyword."""


def ready_teacher(cfg: DictConfig, network: nn.Module, data: build.TaskData) -> float | None:
    """Give the teacher its weights where :func:`ctkd_lightning.build.networks` has not: found in the cache, or trained.

    Args:
        cfg: the configuration.
        network: the teacher; left frozen.
        data: what to train it on.

    Returns:
        How long its training took, seconds; ``None`` where that is not known.
    """
    if cfg.teacher.checkpoint:
        return None
    if cfg.model.teacher.get("pretrained"):
        if _serves_as_published(cfg, data):
            return None
        log.info("The pretrained teacher's classes are not the data's: it gets a new last layer and is trained on")
    data = build.data_of_teacher(cfg, data)
    settings = _teacher_settings(cfg, data)
    folder = _folder(cfg, cfg.model.teacher.name, data, settings)
    seed_everything(cfg.teacher.seed, workers=True, verbose=False)
    students_seed, data.seed = data.seed, cfg.teacher.seed  # the teacher is the same for every seed of the student
    network.requires_grad_(True).train()  # the student's module holds it frozen
    try:
        module, bar = build.teacher_module(cfg, network), build.progress_bar(cfg)

        def make_trainer(callbacks: list[Callback], **settings: Any) -> Trainer:
            return build.trainer(cfg, callbacks=[*callbacks, *bar], logger=False, **settings)

        return train_once(module, data, folder, settings, make_trainer, max_epochs=cfg.teacher.max_epochs)
    finally:
        network.requires_grad_(False).eval()
        data.seed = students_seed


def _serves_as_published(cfg: DictConfig, data: build.TaskData) -> bool:
    """Whether the pretrained teacher's classes are the data's; those of a detector always are."""
    return build.task(cfg) == "detection" or pretrained_classes(cfg.model.teacher.name) == data.num_classes


def _teacher_settings(cfg: DictConfig, data: build.TaskData) -> dict[str, Any]:
    """What decides the teacher's weights."""
    return _training_settings(cfg, data) | {
        "network": plain(cfg.model.teacher),
        "training": {k: v for k, v in plain(cfg.teacher).items() if k not in _NOT_TRAINED_WITH},
    }


def cache_folder(cfg: DictConfig) -> Path:
    """Where the teacher's outputs are kept: the folder of ``teacher_cache``, or under ``auto`` beside the teachers'."""
    beside = Path(cfg.teacher.cache_dir).parent / "teacher_outputs"
    return user_path(beside if cfg.teacher_cache == "auto" else cfg.teacher_cache)


def load_teacher(cfg: DictConfig, network: nn.Module, data: build.TaskData) -> None:
    """Give the teacher the weights that an earlier run used, without any training.

    Args:
        cfg: the run's configuration.
        network: as :func:`ctkd_lightning.build.teacher` made it.
        data: the run's.

    Raises:
        UserError: they are nowhere.
    """
    if cfg.teacher.checkpoint or (cfg.model.teacher.get("pretrained") and _serves_as_published(cfg, data)):
        return
    data = build.data_of_teacher(cfg, data)
    folder = _folder(cfg, cfg.model.teacher.name, data, _teacher_settings(cfg, data))
    load_weights(network, _kept(folder / "teacher.safetensors", "the teacher's"))


def ready_baseline(cfg: DictConfig, data: build.TaskData, precision: str) -> tuple[nn.Module, float | None]:
    """The student as ``method=none`` would train it: found in the cache, or trained and kept there.

    Args:
        cfg: the configuration.
        data: what to train it on.
        precision: of the run's training, and so of this one.

    Returns:
        The network, and how long its training took, seconds.
    """
    settings = _baseline_settings(cfg, data, precision)
    folder = _baseline_folder(cfg, data, settings)
    network = build.student(cfg, data)
    module = build.student_alone(cfg, network)
    bar = build.progress_bar(cfg)
    seed_everything(cfg.seed, workers=True, verbose=False)

    def make_trainer(callbacks: list[Callback], **settings: Any) -> Trainer:
        return build.trainer(cfg, callbacks=[*callbacks, *bar], logger=False, **settings)

    seconds = train_once(module, data, folder, settings, make_trainer, what="baseline")
    return network.eval(), seconds


def load_baseline(cfg: DictConfig, network: nn.Module, data: build.TaskData, precision: str) -> None:
    """Give a network the weights of :func:`ready_baseline`, without any training.

    Raises:
        UserError: they are nowhere.
    """
    folder = _baseline_folder(cfg, data, _baseline_settings(cfg, data, precision))
    load_weights(network, _kept(folder / "baseline.safetensors", "the student's that was trained alone"))


def _baseline_settings(cfg: DictConfig, data: build.TaskData, precision: str) -> dict[str, Any]:
    return _training_settings(cfg, data) | {
        "network": plain(cfg.model.student),
        "training": {**plain(cfg.optimizer), "seed": cfg.seed, "data_seed": data.seed, "epochs": cfg.max_epochs},
        "precision": precision,
        "channels_last": build.channels_last(cfg),
    }


def _baseline_folder(cfg: DictConfig, data: build.TaskData, settings: Mapping[str, Any]) -> Path:
    return _folder(cfg, f"{cfg.model.student.name}-alone", data, settings)


def _kept(weights: Path, whose: str) -> Path:
    """A file in the cache that must be there."""
    if not weights.is_file():
        raise UserError(
            f"{whose} weights are not in {weights.parent} any more: repeat the run, or set teacher.cache_dir"
        )
    return weights


def _training_settings(cfg: DictConfig, data: build.TaskData) -> dict[str, Any]:
    """What decides the weights of any network that is trained on the data, beside its own training."""
    return {
        "data": data.fingerprint(),
        "batch_size": _samples_a_step(cfg, data),
        "drop_last": data.drop_last,
        "trainer": {k: v for k, v in plain(cfg.trainer).items() if k not in _MACHINE_SETTINGS},
    }


def _samples_a_step(cfg: DictConfig, data: build.TaskData) -> int:
    """On all processes together."""
    return data.batch_size if data.batch_size_is_total else data.batch_size * all_processes(cfg.trainer)


def _folder(cfg: DictConfig, name: str, data: build.TaskData, settings: Mapping[str, Any]) -> Path:
    name = name.replace("/", "_")
    return user_path(cfg.teacher.cache_dir) / f"{name}-{data.name}-{teacher_key(settings)}"


def teacher_key(settings: Mapping[str, Any]) -> str:
    """A short name for everything that decides a teacher's weights, the same on every machine."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


def train_once(
    module: ClassifierModule | DetectionModule,
    data: LightningDataModule,
    folder: Path,
    settings: Mapping[str, Any],
    make_trainer: MakeTrainer,
    what: str = "teacher",
    **trainer_settings: Any,
) -> float | None:
    """Train a network and keep its last weights in ``folder``; go on where an interrupted training stopped.

    Damaged files there are as good as none: the training writes them anew.

    Args:
        module: the network's, left with the trained weights.
        data: what to train it on.
        folder: of this network alone; holds ``WHAT.safetensors`` once the training is complete.
        settings: what decided the weights, written beside the weights for the reader.
        make_trainer: makes the Trainer.
        what: the network is, ``"teacher"`` or ``"baseline"``.
        **trainer_settings: for it, such as ``max_epochs``.

    Returns:
        The seconds that the training took, whenever that was; ``None`` where it was not in one go.

    Raises:
        UserError: a folder that cannot be written.
    """
    weights, last = folder / f"{what}.safetensors", folder / "last.ckpt"
    checkpoint = ModelCheckpoint(
        dirpath=folder, filename="last", auto_insert_metric_name=False, enable_version_counter=False
    )
    trainer = make_trainer(callbacks=[checkpoint], **trainer_settings)
    with _alone_in(folder, trainer, what):
        if _of_first(trainer, lambda: _readable(weights, read_state_dict, f"the {what} is trained anew")):
            load_weights(module.network, weights)
            log.info("%s found: %s", what.capitalize(), weights)
            return _seconds(weights)
        _write_settings(folder, settings, what)
        resume = _of_first(trainer, lambda: _readable(last, read_state_dict, f"the {what} is trained from the start"))
        log.info("Training the %s%s; it is kept in %s", what, " from where it stopped" if resume else "", folder)
        started = time.perf_counter()
        trainer.fit(module, datamodule=data, ckpt_path=last if resume else None, weights_only=True)
        took = {} if resume else {_SECONDS: repr(time.perf_counter() - started)}
        if trainer.is_global_zero:
            save_weights(module.network, weights, took)
            last.unlink(missing_ok=True)
        trainer.strategy.barrier(f"{what} saved")
        return _seconds(weights)


def _write_settings(folder: Path, settings: Mapping[str, Any], what: str) -> None:
    try:
        with written_whole(folder / "settings.json") as partial:
            partial.write_text(json.dumps(settings, indent=2, default=str) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write the {what}'s folder {folder} ({error.strerror}): set teacher.cache_dir"
        ) from error


@contextmanager
def _alone_in(folder: Path, trainer: Trainer, what: str) -> Iterator[None]:
    """Let one run at a time train what a folder keeps: the others wait, and find it there."""
    with ExitStack() as held:

        def take() -> bool:
            if trainer.is_global_zero:
                try:
                    held.enter_context(owned(folder, _PATIENCE))
                except UserError:
                    return False
            return True

        waiting = False
        while not _of_first(trainer, take):
            if not waiting:
                log.info("Waiting for another run, which has the %s in %s", what, folder)
            waiting = True
        yield


def _of_first(trainer: Trainer, ask: Callable[[], bool]) -> bool:
    """What the first process finds, on all that are there already: they must not differ in what they do next.

    Those that a training starts by itself come when the first one has the folder to itself: they find what it found.
    """
    strategy = trainer.strategy
    launched_by = getattr(strategy, "cluster_environment", None)
    if trainer.world_size == 1 or isinstance(launched_by, LightningEnvironment):
        return ask()
    strategy.setup_environment()
    return bool(strategy.broadcast(trainer.is_global_zero and ask()))


def _seconds(weights: Path) -> float | None:
    with safe_open(weights, framework="pt") as file:
        found = (file.metadata() or {}).get(_SECONDS)
    return None if found is None else float(found)


def _readable(path: Path, read: Callable[[Path], object], otherwise: str) -> bool:
    # A damaged file is left to be replaced, not removed: another process may be about to read it, and all must agree.
    if not path.exists():
        return False
    try:
        read(path)
    except DamagedCheckpoint:
        log.warning("%s is empty, truncated or damaged; %s", path, otherwise)
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
