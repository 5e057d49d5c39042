"""Who reads each kind: this package, and what is commonly used."""

import csv
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import safetensors.torch
import torch
import torchvision
import yaml
from hydra.utils import instantiate
from torch import nn

from ctkd_lightning import build
from ctkd_lightning.data import CIFAR10, ImageFolder, TinyImageNet
from ctkd_lightning.data._image_files import read_image
from ctkd_lightning.data._images import ImageArray
from ctkd_lightning.data._loading.decode import decode_once
from ctkd_lightning.data.watch_sensors import WatchSensors
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.preflight import check_resumable
from ctkd_lightning.models import load_student, load_weights
from ctkd_lightning.reporting.runs import read_runs
from ctkd_lightning.teacher_cache.store import TeacherCache


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)


def _student(path: Path) -> object:
    return load_student(path) if path.name.startswith("student") else load_weights(_Network(), path)


def _configuration(path: Path) -> object:
    return build.unread_data(build.config(run=path))


def _run(path: Path) -> object:
    (left_out,) = read_runs([path]).left_out or [None]
    if left_out is not None:
        raise UserError(left_out.why)


def _cache(path: Path) -> object:
    """A damaged cache is no error: what it should hold is made anew."""
    if path.name.startswith("teacher"):
        cache = TeacherCache(path.parent, key="c7cd", samples=5, views=2, width=4)
        path.rename(cache.path)
        cache = TeacherCache(path.parent, key="c7cd", samples=5, views=2, width=4)
        assert not cache.read(torch.arange(5), torch.zeros(5, dtype=torch.int64))[1].any()
    else:
        images = ImageArray(torch.arange(5 * 3 * 16).view(5, 3, 4, 4).to(torch.uint8), torch.arange(5))
        assert np.array_equal(decode_once(images, 4, path, 0, ""), images.pixels.numpy())
        assert path.is_file()
    raise UserError("made anew")


def _archive(path: Path) -> object:
    kind = CIFAR10 if "cifar" in path.name else TinyImageNet
    return kind(path.parent, download=True).prepare_data()


def _images_of(root: Path) -> object:
    return ImageFolder(root).class_names


def _tiny(root: Path) -> object:
    data = TinyImageNet(root, download=False, cache_dir=None)
    return data.class_names, data.load("test").in_memory(64)


OURS = {
    "weights": lambda path: load_weights(_Network(), path),
    "resume": lambda path: check_resumable(path, nn.Linear(3, 4)),
    "safetensors": _student,
    "images": read_image,
    "folders": _images_of,
    "configurations": _configuration,
    "runs": _run,
    "arrays": lambda path: WatchSensors(path.parent).load("train"),
    "caches": _cache,
    "archives": _archive,
    "texts": _tiny,
}


def _listed(path: Path) -> None:
    print(torchvision.datasets.folder.find_classes(path / "train"))


def _unpickled(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=False)


def _instantiated(path: Path) -> object:
    return instantiate(yaml.unsafe_load((path / ".hydra" / "config.yaml").read_text()))


def _loaded(path: Path) -> object:
    metrics = list(csv.reader((path / "metrics.csv").open()))
    return json.loads((path / "summary.json").read_text()), metrics


def _extracted(path: Path) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as packed:
            packed.extractall(path.parent)
    else:
        with tarfile.open(path) as packed:
            packed.extractall(path.parent)


USUAL = {
    "weights": ("torch.load(weights_only=False)", _unpickled),
    "resume": ("torch.load(weights_only=False)", _unpickled),
    "safetensors": ("safetensors.torch.load_file", safetensors.torch.load_file),
    "images": ("PIL.Image.open", lambda path: PIL.Image.open(path).convert("RGB")),
    "folders": (
        "torchvision's ImageFolder",
        _listed,
    ),
    "configurations": ("yaml.unsafe_load and instantiate", _instantiated),
    "runs": ("json.load, csv.reader", _loaded),
    "arrays": ("numpy.load(allow_pickle=True)", lambda path: np.load(path, allow_pickle=True)),
    "caches": ("numpy.load(allow_pickle=True)", lambda path: np.load(path, allow_pickle=True)),
    "archives": ("extractall", _extracted),
    "texts": ("open", lambda path: [file.read_text() for file in path.rglob("*.txt")]),
}
