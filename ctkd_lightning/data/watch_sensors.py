"""A smart watch's motion sensors during exercises of the shoulder."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ctkd_lightning._files import user_path
from ctkd_lightning.data._checks import whole_number
from ctkd_lightning.data._labelled import Split
from ctkd_lightning.data._multimodal import MultimodalDataModule
from ctkd_lightning.data._pickled_array import read_object
from ctkd_lightning.data._samples import Samples
from ctkd_lightning.data._split import SPLIT_SEED, complement, members
from ctkd_lightning.errors import UserError, check_number, suggest

CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")
EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
SUBJECTS = range(1, 11)
FILE = "watch_dataset.npy"
GROUPINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "sensors": {"accelerometer": ("ax", "ay", "az"), "gyroscope": ("wx", "wy", "wz")},
    "axes": {"x": ("ax", "wx"), "y": ("ay", "wy"), "z": ("az", "wz")},
    "channels": {channel: (channel,) for channel in CHANNELS},
}
"""The channels of each modality."""
TEST_SUBJECTS = np.random.default_rng(SPLIT_SEED).permutation(list(combinations(SUBJECTS, 3))).tolist()
"""Those of each ``split``: all 120 choices of three, in a fixed order without pattern."""


class WatchSensors(MultimodalDataModule):
    """Windows of the six motion signals of a smart watch, in seven exercises of ten people; Burns et al., 2018.

    140 recordings at 50 Hz (arXiv 1802.01489) of acceleration (``ax``, ``ay``, ``az``) and angular velocity (``wx``,
    ``wy``, ``wz``), which the package seglearn ships: ``pip install 'ctkd-lightning[sensors]'``. A sample is a window
    of a recording, a modality (C, ``window``) of it. Three of the ten subjects test, others validate: ``val_size``
    counts subjects.

    Args:
        root: the folder of ``watch_dataset.npy``; that of the installed package by default.
        grouping: the modalities: ``"sensors"``, accelerometer and gyroscope, three channels each; ``"axes"``, x, y and
            z, each axis's acceleration and angular velocity; ``"channels"``, each of the six alone.
        window: samples of a signal in a window, a fiftieth of a second each.
        step: from a window's start to the next one's.
        split: which three subjects test, a number from 0 to 119: each chooses three others.
        val_size: the part of the other seven subjects that validates: a count (int) or a fraction (float).
        **common: the further arguments of :class:`MultimodalDataModule`.
    """

    name = "watch_sensors"

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        grouping: Literal["sensors", "axes", "channels"] = "sensors",
        window: int = 100,
        step: int = 50,
        split: int = 0,
        val_size: float = 1,
        **common: Any,
    ) -> None:
        if grouping not in GROUPINGS:
            raise UserError(f"unknown grouping {grouping!r}: {suggest(str(grouping), GROUPINGS)}")
        self.grouping = grouping  # what decides the shapes comes first
        self.window = whole_number("window", window, least=1)
        super().__init__(val_size=val_size, **common)
        self.root = None if root is None else user_path(root)
        self.step = whole_number("step", step, least=1)
        check_number("split", split, least=0, most=len(TEST_SUBJECTS) - 1, whole=True)
        self.split = int(split)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """(C, ``window``) of each modality."""
        return {name: (len(channels), self.window) for name, channels in GROUPINGS[self.grouping].items()}

    @property
    def class_names(self) -> list[str]:
        """The exercises' short names."""
        return list(EXERCISES)

    def load(self, split: Split) -> Samples:
        """The windows of the training or the test subjects."""
        signals, targets, subjects = self._windows(_read(self._file()))
        values = {
            name: signals[:, [CHANNELS.index(channel) for channel in GROUPINGS[self.grouping][name]]]
            for name in self.modalities
        }
        test = members(subjects, torch.tensor(TEST_SUBJECTS[self.split]))
        chosen = test if split == "test" else complement(test, len(subjects))
        return Samples(values, targets, subjects).select(chosen)

    def _file(self) -> Path:
        if self.root is not None:
            return self.root / FILE
        package = find_spec("seglearn")  # found, not imported: the data need none of its code
        if package is None or not package.submodule_search_locations:
            raise UserError(f"{self.name} needs {FILE} of seglearn: pip install 'ctkd-lightning[sensors]', or set root")
        return Path(package.submodule_search_locations[0]) / "data" / FILE

    def _windows(self, recordings: _Recordings) -> tuple[Tensor, Tensor, Tensor]:
        """All windows (N, 6, window) in the recordings' order, with their exercises and subjects (N,)."""
        lengths = [len(signal) for signal in recordings.signals]
        counts = torch.tensor([max(0, (length - self.window) // self.step + 1) for length in lengths])
        if not counts.any():
            raise UserError(
                f"window={self.window} is longer than all recordings, up to {max(lengths)}: take a shorter one"
            )
        windows = [
            signal.unfold(0, self.window, self.step) for signal in recordings.signals if len(signal) >= self.window
        ]
        exercises, subjects = (x.repeat_interleave(counts) for x in (recordings.exercises, recordings.subjects))
        return torch.cat(windows), exercises, subjects


class _Recordings(NamedTuple):
    """Of each recording the signals (T, 6), the exercise's and the subject's number."""

    signals: list[Tensor]
    exercises: Tensor
    subjects: Tensor


def _read(path: Path) -> _Recordings:
    content = read_object(path)
    try:
        if (tuple(content["X_labels"]), tuple(content["y_labels"])) != (CHANNELS, EXERCISES):
            raise ValueError(f"channels {content['X_labels']}, exercises {content['y_labels']}")
        if any(not isinstance(signal, np.ndarray) or signal.dtype.kind not in "fiu" for signal in content["X"]):
            raise ValueError("recordings that are no arrays of numbers")
        if sum(signal.nbytes for signal in content["X"]) > path.stat().st_size:
            raise ValueError("recordings that are longer than the file")
        signals = [torch.from_numpy(np.asarray(signal, dtype=np.float64)) for signal in content["X"]]
        exercises, subjects = (torch.from_numpy(np.asarray(content[key], dtype=np.int64)) for key in ("y", "subject"))
        if not len(signals) == len(exercises) == len(subjects):
            raise ValueError(f"{len(signals)} recordings, {len(exercises)} exercises, {len(subjects)} subjects")
        if any(signal.shape != (len(signal), len(CHANNELS)) for signal in signals):
            raise ValueError(f"a recording that is not of {len(CHANNELS)} channels")
        if set(subjects.tolist()) != set(SUBJECTS) or not set(exercises.tolist()) <= set(range(len(EXERCISES))):
            raise ValueError(f"subjects {sorted(set(subjects.tolist()))}, exercises {sorted(set(exercises.tolist()))}")
    except (TypeError, KeyError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path} is not seglearn's {FILE} (found {error}): take the file that the package ships"
        ) from error
    return _Recordings(signals, exercises, subjects)
