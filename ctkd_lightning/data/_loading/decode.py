"""Decode a folder of images once, and keep the result."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from ctkd_lightning.data._loading.sampler import EvaluationSampler
from ctkd_lightning.data._loading.workers import byte_loader, one_line_errors
from ctkd_lightning.data.images import ImageArray, ImageFiles

IMAGES_A_WORKER = 1000  # below, a worker takes longer to start than to decode them


def load_decoded(files: ImageFiles, image_size: int, cache_dir: Path | None = None, num_workers: int = 0) -> ImageArray:
    """Decode all files, or read what an earlier call kept.

    A kept array is taken only if the list of files (names, sizes, times of change) and the transform are the same.

    Args:
        files: images whose transform gives one size.
        image_size: that size, pixels.
        cache_dir: where to keep the array; ``None`` keeps nothing. A folder that cannot be written is no error.
        num_workers: processes to decode with, at most.

    Raises:
        UserError: naming a file that cannot be decoded.
    """
    shape = (len(files), 3, image_size, image_size)
    kept = cache_dir and cache_dir / f"{_key(files)}.npy"
    pixels = _read(kept, shape) if kept else None
    if pixels is None:
        pixels = _decode(files, shape, num_workers)
        if kept:
            _write(kept, pixels)
    return ImageArray(torch.from_numpy(pixels), files.targets)


def _key(files: ImageFiles) -> str:
    return hashlib.sha256(f"{files.transform!r} {files.digest()}".encode()).hexdigest()[:32]


def _decode(files: ImageFiles, shape: tuple[int, ...], num_workers: int) -> np.ndarray:
    pixels = np.empty(shape, dtype=np.uint8)
    # batches of a megabyte, which fit into the smallest shared memories
    sampler = EvaluationSampler(torch.arange(len(files)), max(1, 2**20 // pixels[0].size))
    loader = byte_loader(files, sampler, min(num_workers, os.cpu_count() or 1, len(files) // IMAGES_A_WORKER))
    with one_line_errors():
        for batch in track(loader, f"decoding {files.root}", transient=True):
            pixels[batch.index] = batch.image
    return pixels


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        pixels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return pixels if pixels.shape == shape and pixels.dtype == np.uint8 else None


def _write(path: Path, pixels: np.ndarray) -> None:
    """Write a file that a reader finds whole or not at all; where that cannot be, the next run decodes again."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        try:
            with os.fdopen(descriptor, "wb") as file:
                np.save(file, pixels)
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise
