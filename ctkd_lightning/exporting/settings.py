"""What an export is asked for, checked before anything is read or built."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from omegaconf import DictConfig

from ctkd_lightning._files import user_path
from ctkd_lightning.errors import UserError, check_number, suggest

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
"""The ending of a file's name by format."""

Quantize = Literal["static", "dynamic"]


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """The keys of ``conf/export.yaml``.

    Attributes:
        run: the folder of a distillation.
        format: one of :data:`SUFFIXES`.
        output: the file to write.
        normalize: whether the file's network normalises, or its caller.
        quantize: to int8, with calibrated ranges or with those of each batch.
        tolerance: the greatest difference of a logit that is let pass.
        images: test images to compare on; ``None`` for all.
        data_root: where the run's data lie, if not where its configuration says.
    """

    run: str
    format: str
    output: Path
    normalize: bool = True
    quantize: Quantize | None = None
    tolerance: float = 1e-4
    images: int | None = 1000
    data_root: str | None = None


def read_settings(cfg: DictConfig) -> ExportSettings:
    """Read and check the configuration of an export.

    Raises:
        UserError: naming the setting that cannot be.
    """
    for key, what in (("run", "the folder of a run"), ("format", "a format"), ("output", "a file")):
        if not isinstance(cfg[key], str) or not cfg[key]:
            raise UserError(f"{key} must be {what}, found {cfg[key]}: {key}=VALUE")
    if cfg.format not in SUFFIXES:
        raise UserError(f"unknown format {cfg.format!r}: {suggest(cfg.format, SUFFIXES)}")
    for key in ("normalize", "overwrite"):
        if not isinstance(cfg[key], bool):
            raise UserError(f"{key} must be true or false, found {cfg[key]}")
    if cfg.quantize not in (None, "static", "dynamic"):
        raise UserError(f"quantize must be null, static or dynamic, found {cfg.quantize}")
    if cfg.quantize and cfg.format != "onnx":
        raise UserError(f"quantize={cfg.quantize} is of format=onnx, found format={cfg.format}: leave one of them out")
    check_number("tolerance", cfg.tolerance, least=0)
    if cfg.images is not None:
        check_number("images", cfg.images, least=1, whole=True)
    if cfg.data_root is not None and not isinstance(cfg.data_root, str):
        raise UserError(f"data_root must be a folder, found {cfg.data_root}")
    return ExportSettings(
        run=cfg.run,
        format=cfg.format,
        output=_free_path(cfg.output, SUFFIXES[cfg.format], cfg.format, cfg.overwrite),
        normalize=cfg.normalize,
        quantize=cast("Quantize | None", cfg.quantize),
        tolerance=cfg.tolerance,
        images=None if cfg.images is None else int(cfg.images),
        data_root=cfg.data_root,
    )


def _free_path(output: str, suffix: str, kind: str, overwrite: bool) -> Path:
    """The path of a file that can be written."""
    path = user_path(output)
    if path.suffix != suffix:
        raise UserError(f"output: the name of a file of format={kind} must end in {suffix}, found {path}")
    if path.is_dir():
        raise UserError(f"output: {path} is a folder: give the name of a file in it")
    if path.exists() and not overwrite:
        raise UserError(f"output: {path} exists: choose another name, or replace it with overwrite=true")
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"output: {folder} is no folder that can be written: choose another, or change its permissions")
    return path
