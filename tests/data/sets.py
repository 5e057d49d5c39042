"""Each data set in small: the rows that carry it through all common tests.

Those of images are in ``test_all.py``, those of several modalities in ``test_all_multimodal.py``.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ctkd_lightning.data import (
    CIFAR10,
    CIFAR100,
    Digits,
    DigitViews,
    Fake,
    ImageDataModule,
    ImageFolder,
    ImageNet,
    MultimodalDataModule,
    SixViews,
    TinyImageNet,
    WatchSensors,
)
from ctkd_lightning.data.six_views import FILES
from ctkd_lightning.data.watch_sensors import CHANNELS, EXERCISES
from tests.data.folders import image_folder


@dataclass(frozen=True)
class Row:
    """A data set in small.

    Attributes:
        write: writes the smallest files of it into a folder, other training images for another seed, and gives the
            settings that they need.
        fixed: its training images are the same for everybody, and what it reads is checked to be them.
    """

    write: Callable[[Path, int], dict[str, Any]]
    fixed: bool = False


def small(cls: type[ImageDataModule], root: Path, seed: int = 0) -> Callable[..., ImageDataModule]:
    """Write small files into ``root``; what makes the data set over them, decoded in this process."""
    written = SETS[cls].write(root, seed)
    return partial(cls, **{"root": root, "cache_dir": None, "num_workers": 0, "download": False, **written})


def write_nothing(root: Path, seed: int) -> dict[str, Any]:
    """No files, and no settings."""
    return {}


def write_fake(root: Path, seed: int) -> dict[str, Any]:
    """A few images of 8 × 8 pixels."""
    return {"num_classes": 4, "train_size": 24 + seed, "test_size": 8, "image_size": 8}


def write_cifar10(root: Path, seed: int) -> dict[str, Any]:
    """Six images a file, of three classes."""
    folder = root / "cifar-10-batches-py"
    rng = np.random.default_rng(seed)
    for name in [*[f"data_batch_{i}" for i in range(1, 6)], "test_batch"]:
        _dump(folder / name, {"data": _pictures(rng, 6), "labels": [0, 1, 2, 0, 1, 2]})
    _dump(folder / "batches.meta", {"label_names": [f"name {i}" for i in range(10)]})
    return {}


def write_cifar100(root: Path, seed: int) -> dict[str, Any]:
    """Eight training and four test images, of the last four classes."""
    folder = root / "cifar-100-python"
    rng = np.random.default_rng(seed)
    _dump(folder / "train", {"data": _pictures(rng, 8), "fine_labels": [*range(96, 100)] * 2})
    _dump(folder / "test", {"data": _pictures(rng, 4), "fine_labels": [*range(96, 100)]})
    _dump(folder / "meta", {"fine_label_names": [f"fine {i}" for i in range(100)]})
    return {}


def write_folders(root: Path, seed: int) -> dict[str, Any]:
    """Three classes."""
    image_folder(root, {"train": 4, "test": 2}, seed=seed)
    return {"image_size": 16}


def write_imagenet(root: Path, seed: int) -> dict[str, Any]:
    """Three classes, in ImageNet's folders."""
    image_folder(root, {"train": 4, "val": 2}, seed=seed)
    return {"image_size": 16, "resize": 20, "val_size": 3}


def write_tiny_imagenet(root: Path, seed: int) -> dict[str, Any]:
    """The published layout: two training images and one validation image a class, which the pixel at (5, 5) shows."""
    folder = root / "tiny-imagenet-200"
    wnids = [f"n{1000 + 7 * i:08d}" for i in range(200)]
    (folder / "val" / "images").mkdir(parents=True, exist_ok=True)
    annotations = []
    for number, wnid in enumerate(wnids):
        (folder / "train" / wnid / "images").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng((seed, number)).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        pixels[5, 5] = number, 255 - number, 0
        image = Image.fromarray(pixels)
        for i in range(2):
            image.save(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", format="png")
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("0 0 63 63")
        image.save(folder / "val" / "images" / f"val_{199 - number}.JPEG", format="png")
        annotations.append(f"val_{199 - number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(annotations))
    (folder / "wnids.txt").write_text("\n".join(np.random.default_rng(0).permutation(wnids)))
    (folder / "words.txt").write_text("".join(f"{wnid}\tword {i}, other\n" for i, wnid in enumerate(wnids)))
    return {"val_size": 0.5}


def write_six_views(root: Path, seed: int) -> dict[str, Any]:
    """The archive's six files; each number says its row and column."""
    root.mkdir(parents=True, exist_ok=True)
    for file, features in FILES.values():
        np.savetxt(root / file, six_views_table(features, seed), fmt="%.1f")
    return {"root": root}


def six_views_table(features: int, seed: int = 0) -> np.ndarray:
    """(2000, features): row + column / 10, of which the columns begin again after nine."""
    return seed + np.arange(2000.0)[:, None] + np.arange(features) % 10 / 10


def write_watch_sensors(root: Path, seed: int) -> dict[str, Any]:
    """One recording a subject and exercise, of 24 to 30 samples."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    subject, exercise = np.repeat(np.arange(1, 11), 7), np.tile(np.arange(7), 10)
    signals = [rng.normal(size=(24 + target, 6)) for target in exercise]
    labels = {"X_labels": list(CHANNELS), "y_labels": list(EXERCISES)}
    content = {"X": signals, "y": exercise, "subject": subject, "side": np.zeros(70), **labels}
    np.save(root / "watch_dataset.npy", np.array(content, dtype=object), allow_pickle=True)
    return {"root": root, "window": 10, "step": 5}


def _pictures(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)


def _dump(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


SETS: dict[type[ImageDataModule], Row] = {
    CIFAR10: Row(write_cifar10, fixed=True),
    CIFAR100: Row(write_cifar100, fixed=True),
    Digits: Row(write_nothing, fixed=True),
    Fake: Row(write_fake),
    ImageFolder: Row(write_folders),
    ImageNet: Row(write_imagenet),
    TinyImageNet: Row(write_tiny_imagenet),
}

MULTIMODAL: dict[type[MultimodalDataModule], Callable[[Path, int], dict[str, Any]]] = {
    DigitViews: write_nothing,
    SixViews: write_six_views,
    WatchSensors: write_watch_sensors,
}
