"""Decode all images of a data set once, and keep the result."""

from __future__ import annotations

import contextlib
import math
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from ctkd_lightning._files import locked, written_whole
from ctkd_lightning._reading import check_held, check_regular
from ctkd_lightning.data._images import Images
from ctkd_lightning.data._loading.sampler import EvaluationSampler
from ctkd_lightning.data._loading.workers import byte_loader, one_line_errors

IMAGES_A_WORKER = 1000  # below, a worker takes longer to start than to decode them


def decode_once(images: Images, image_size: int, kept: Path | None, num_workers: int, title: str) -> np.ndarray:
    """Decode all images, or read what an earlier call kept; of several processes one decodes, the others wait for it.

    Args:
        images: of one size.
        image_size: that size, pixels.
        kept: the file to keep them in, named after all that decides the pixels; ``None`` keeps nothing.
        num_workers: processes to decode with, at most.
        title: of the progress bar.

    Returns:
        (N, 3, H, W), uint8.

    Raises:
        UserError: naming a file that cannot be decoded.
    """
    shape = (len(images), 3, image_size, image_size)
    check_held(math.prod(shape), f"{len(images)} images of image_size={image_size}")
    if kept is None:
        return _decode(images, shape, num_workers, title)
    pixels = _read(kept, shape)
    if pixels is not None:
        return pixels
    with locked(kept):
        pixels = _read(kept, shape)
        if pixels is None:
            pixels = _decode(images, shape, num_workers, title)
            # where the folder cannot be written, the next run decodes again
            with contextlib.suppress(OSError), written_whole(kept) as partial, open(partial, "wb") as file:
                np.save(file, pixels)
                file.write(_sum(pixels))
    return pixels


def _decode(images: Images, shape: tuple[int, ...], num_workers: int, title: str) -> np.ndarray:
    pixels = np.empty(shape, dtype=np.uint8)
    # batches of a megabyte, which fit into the smallest shared memories
    sampler = EvaluationSampler(torch.arange(len(images)), max(1, 2**20 // pixels[0].size))
    loader = byte_loader(images, sampler, min(num_workers, os.cpu_count() or 1, len(images) // IMAGES_A_WORKER))
    with one_line_errors():
        for batch in track(loader, title, transient=True):
            pixels[batch.index] = batch.image
    return pixels


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The pixels in a file, or ``None`` where there is none, it is cut, damaged or holds something else."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            if np.lib.format.read_array_header_1_0(file) != (shape, False, np.dtype(np.uint8)):
                return None  # before memory is set aside for whatever the header says
            pixels = np.empty(shape, np.uint8)
            whole = file.readinto(pixels.reshape(-1).data) == pixels.size
            return pixels if whole and file.read() == _sum(pixels) else None
    except Exception:  # numpy's readers name no end of errors for a damaged header
        return None


def _sum(pixels: np.ndarray) -> bytes:
    """What shows damage: read from the disk anew, the pixels must come to the same."""
    return zlib.crc32(pixels.reshape(-1).data).to_bytes(4, "little")
