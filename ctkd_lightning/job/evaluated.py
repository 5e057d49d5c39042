"""What is evaluated: networks, and the data that they are tested on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import nn

from ctkd_lightning.data import ImageDataModule, ImageFolder
from ctkd_lightning.job.configuration import plain
from ctkd_lightning.job.outputs import TestOutputs, test_fingerprint
from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.models import create_model


@dataclass
class Candidate:
    """A network to evaluate.

    Attributes:
        name: as in ``model=``.
        untrained: makes it, without its weights.
        trained: makes it, with them.
        needed: whether an evaluation without it is none; others are left out where their weights are nowhere.
    """

    name: str
    untrained: Callable[[], nn.Module]
    trained: Callable[[], nn.Module]
    needed: bool = True


@dataclass
class Subject:
    """An evaluation to do.

    Attributes:
        title: for the table.
        cfg: the configuration, on the evaluation's device.
        data: the test samples.
        data_name: theirs.
        candidates: by role, ``teacher``, ``student`` and ``baseline``, as far as there are, or ``network``.
        kept: what the networks gave for these very samples, where that is known.
        keep_in: the run that keeps what they give now.
        file: for the result.
    """

    title: str
    cfg: DictConfig
    data: ImageDataModule
    data_name: str
    candidates: dict[str, Candidate]
    kept: TestOutputs | None = None
    keep_in: RunDirectory | None = None
    file: Path | None = None
    test_data: str = field(init=False)

    def __post_init__(self) -> None:
        self.test_data = test_fingerprint(self.data)


def on_device(cfg: DictConfig, device: str) -> DictConfig:
    """A configuration whose Trainer is one process in float32, on a device."""
    cfg = copy.deepcopy(cfg)
    OmegaConf.set_struct(cfg, False)
    cfg.trainer.update(accelerator=device, devices=1, num_nodes=1, strategy="auto", precision="32-true")
    return cfg


def name_of(data: ImageDataModule) -> str:
    """A data set's name; of image folders the folder's."""
    return (data.root.resolve().name if isinstance(data, ImageFolder) else "") or data.name


def untrained(cfg: DictConfig, role: str, num_classes: int) -> nn.Module:
    """The teacher or the student of a configuration, without its weights, to evaluate."""
    return create_model(**plain(cfg.model[role]) | {"pretrained": False}, num_classes=num_classes).eval()
