"""The checkpoints of a run: written whole beside the last good one, and read as what they are, input."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig

from ctkd_lightning._files import written_whole
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.preflight import read_resumable
from ctkd_lightning.job.run_directory import RunDirectory

log = logging.getLogger(__name__)

_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")  # of a ModelCheckpoint's state
_BEST = (*_PATHS, "best_k_models", "kth_value")
_NONE = {"best_model_path": "", "best_model_score": None, "current_score": None}


class RunCheckpoints(TorchCheckpointIO):
    """Write, read and remove a run's checkpoints, and touch no other file.

    Lightning's own way writes into ``TMPDIR`` and moves the file from there, which on another file system is a copy
    that a kill or a full disk leaves half done, over the last good one. And the checkpoint that a run goes on from
    says which files the callbacks are to remove: a file from somewhere could name any (:class:`ConfinedPaths`).

    Attributes:
        folders: where the run's callbacks keep checkpoints; set once they are made.
    """

    def __init__(self) -> None:
        self.folders: list[Path] = []

    def allow(self, callbacks: Iterable[object]) -> None:
        """Take the folders of a Trainer's checkpoint callbacks as the run's."""
        found = [callback.dirpath for callback in callbacks if isinstance(callback, ModelCheckpoint)]
        self.folders = [Path(os.path.realpath(folder)) for folder in found if folder is not None]

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint in the place of the last one, whole or not at all.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        try:
            with written_whole(Path(path)) as partial:
                torch.save(checkpoint, partial)
        except (OSError, RuntimeError) as error:  # torch's writer says only that it failed
            reason = error.strerror if isinstance(error, OSError) else None
            raise UserError(
                f"cannot write the checkpoint {path}: {reason or 'the disk may be full'}; make room, and go on with "
                "the same settings, this run_dir and resume=auto"
            ) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint of a training, without running code.

        Raises:
            UserError: a damaged file, or another kind of file.
        """
        return dict(read_resumable(Path(path)))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint of the run; anything else stays."""
        own = self._own(path)
        if own is None:
            log.warning("not removed: %s is no checkpoint of this run", path)
        else:
            own.unlink()

    def _own(self, path: str | Path) -> Path | None:
        """A regular file that lies in one of the folders itself; ``None`` of any other."""
        path = Path(path)
        real = Path(os.path.realpath(path.parent)) / path.name
        if real.parent not in self.folders:
            return None
        try:
            return real if stat.S_ISREG(real.lstat().st_mode) else None
        except OSError:
            return None

    def confined(self, state: Any) -> Any:
        """A callback's state whose paths are files in the run's folders, also where the run has moved since."""
        if not isinstance(state, Mapping) or "dirpath" not in state or "best_model_path" not in state:
            return state
        folder = self._folder_of(state["dirpath"])
        paths = {key: self._named(folder, state.get(key)) for key in _PATHS}
        models = state.get("best_k_models")
        named = models.items() if isinstance(models, Mapping) else ()
        scores = {self._named(folder, path): score for path, score in named}
        scores.pop("", None)
        confined = {**state, **paths, "best_k_models": scores, "dirpath": str(folder)}
        known = [confined.get("best_model_score"), *scores.values()]
        if paths["best_model_path"] and all(score is None or _is_number(score) for score in known):
            return confined
        return {key: value for key, value in confined.items() if key not in _BEST} | _NONE  # the best is sought anew

    def _folder_of(self, dirpath: object) -> Path | None:
        named = Path(os.path.realpath(str(dirpath)))
        if named in self.folders:
            return named
        return self.folders[0] if len(set(self.folders)) == 1 else None  # the run has moved

    def _named(self, folder: Path | None, path: object) -> str:
        own = self._own(folder / os.path.basename(str(path))) if folder is not None and path else None
        return "" if own is None else str(own)


class ConfinedPaths(Callback):
    """No path in a checkpoint that a run goes on from leaves the run's folders, whichever strategy reads it.

    Args:
        files: the run's checkpoints.
    """

    def __init__(self, files: RunCheckpoints) -> None:
        self.files = files

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Change the callbacks' states before any of them takes its own."""
        states = checkpoint.get("callbacks")
        if isinstance(states, Mapping):
            checkpoint["callbacks"] = {key: self.files.confined(state) for key, state in states.items()}


class WithinEpochs(ModelCheckpoint):
    """Write the run's last checkpoint within epochs too, which may be long.

    Not at an epoch's last step, after which validation and the checkpoint of its end come: Lightning would go on behind
    both. Nor between the batches of one step of the optimizer, whose gradients are in no checkpoint.

    Args:
        dirpath: the run's folder of checkpoints.
        **every: ``every_n_train_steps`` or ``train_time_interval``.
    """

    def __init__(self, dirpath: Path, **every: Any) -> None:
        super().__init__(dirpath, filename="last", auto_insert_metric_name=False, enable_version_counter=False, **every)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write one if it is time."""
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if not last and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


def within_epochs(cfg: DictConfig) -> list[WithinEpochs]:
    """The callbacks that ``checkpoint_every_steps`` and ``checkpoint_every_minutes`` ask for."""
    every: list[dict[str, Any]] = []
    if (steps := cfg.get("checkpoint_every_steps")) is not None:
        every.append({"every_n_train_steps": int(steps)})
    if (minutes := cfg.get("checkpoint_every_minutes")) is not None:
        every.append({"train_time_interval": timedelta(minutes=float(minutes))})
    return [WithinEpochs(RunDirectory(cfg.run_dir).checkpoints, **one) for one in every]


def _is_number(score: object) -> bool:
    return isinstance(score, torch.Tensor) and score.numel() == 1
