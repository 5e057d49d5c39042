"""Images in files, decoded when they are asked for."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ctkd_lightning._reading import check_regular
from ctkd_lightning.data._images import ImageArray
from ctkd_lightning.data._loading.decode import decode_once
from ctkd_lightning.data._rgb import to_rgb
from ctkd_lightning.errors import UserError

FORMAT = 2  # counts the ways in which pixels have been made from files: a new one must not read what an old one kept

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF")
"""Those of published image data sets, whatever a file is called. PIL reads forty more: it gives EPS to Ghostscript, a
program, and the decoders of others, such as FLI, PSD or JPEG 2000, have had errors that hardly anybody looked for."""

_PIXELS = 89_478_485  # where PIL begins to warn: a quarter of a gibibyte in RGB
_BYTES = 6 * _PIXELS  # of a file without compression, 16 bits a channel

Transform = Callable[[Image.Image, int], Image.Image]


class ImageFiles:
    """Images in files.

    Args:
        root: the folder that ``names`` are relative to.
        names: one file an image.
        targets: one class index an image.
        transform: (image, view) -> image of the final size.
    """

    def __init__(self, root: Path, names: Sequence[str], targets: Sequence[int], transform: Transform) -> None:
        self.root = root
        # one block of bytes: a list's million strings would be copied to each worker as their reference counts change
        self.names = np.array([os.fsencode(name) for name in names])
        self.targets = torch.tensor(targets)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """The file of one image."""
        return self.root / os.fsdecode(self.names[index])

    def pixels_of(self, index: int, view: int) -> Tensor:
        """Decode one image, (3, H, W), uint8."""
        if view >= 0:
            view = view * len(self) + index  # the same view of two images is not the same crop
        image = self.transform(read_image(self.path(index)), view)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def in_memory(self, image_size: int, cache_dir: Path | None = None, num_workers: int = 0) -> ImageArray:
        """Decode all files, or read what an earlier call kept.

        A kept array is taken only if the list of files (names, sizes, times of change) and the transform are the same.

        Args:
            image_size: the transform's.
            cache_dir: where to keep the array; ``None`` keeps nothing. A folder that cannot be written is no error.
            num_workers: processes to decode with, at most.

        Raises:
            UserError: naming a file that cannot be decoded.
        """
        digest = self.digest()
        key = hashlib.sha256(f"{self.transform!r} {digest}".encode()).hexdigest()[:32]
        kept = cache_dir and cache_dir / f"{key}.npy"
        pixels = decode_once(self, image_size, kept, num_workers, f"decoding {self.root}")
        return ImageArray(torch.from_numpy(pixels), self.targets, digest)

    def digest(self) -> str:
        """A hash of the files' names, sizes and times of change: of what they hold, without reading them.

        Raises:
            UserError: naming a file that is not there, such as a link to nowhere or to itself.
        """
        digest = hashlib.sha256(f"{FORMAT}\n".encode())
        folder = os.fsencode(self.root)
        for name, target in zip(self.names.tolist(), self.targets.tolist(), strict=True):
            try:
                status = os.stat(os.path.join(folder, name))
            except OSError as error:
                path = self.root / os.fsdecode(name)
                raise UserError(f"cannot read the image {path} ({error.strerror}): replace or remove it") from error
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"cannot read the image {self.root / os.fsdecode(name)}: it is no file; remove it")
            digest.update(name + f"\n{target} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def read_image(path: Path) -> Image.Image:
    """Decode an image file to RGB of 0 … 255, whatever its mode: see :func:`~ctkd_lightning.data._rgb.to_rgb`.

    Raises:
        UserError: naming the file that cannot be decoded.
    """
    try:
        check_regular(path, _BYTES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is refused, see _in_rgb
            with Image.open(path, formats=FORMATS) as image:
                return _in_rgb(image, path)
    except UserError:
        raise
    # on damaged files PIL's readers raise what they stumble on: struct.error, IndexError, MemoryError …
    except Exception as error:
        said = f"it is no {', '.join(FORMATS)}" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(
            f"cannot decode the image {path} ({said or type(error).__name__}): replace or remove the file"
        ) from error


def _in_rgb(image: Image.Image, path: Path) -> Image.Image:
    width, height = image.size
    if width * height > _PIXELS:
        raise UserError(
            f"the image {path} has {width:,} × {height:,} pixels, and {_PIXELS:,} at most are read: make it smaller, "
            "or remove it"
        )
    try:
        return to_rgb(image)
    except UserError as error:
        raise UserError(f"cannot scale the image {path}: {error}, or remove it") from error
