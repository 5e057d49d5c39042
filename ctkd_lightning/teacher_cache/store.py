"""What a teacher gives for each view of each sample, kept on disk."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.filesize import decimal
from torch import Tensor

from ctkd_lightning._files import locked, user_path, written_whole
from ctkd_lightning._reading import check_regular
from ctkd_lightning.errors import UserError


class TeacherCache:
    """Float16 vectors by (sample, view), in one memory-mapped ``.npy`` file that processes and runs share.

    A frozen teacher gives the same logits for the same view of the same image, whatever the student, the method, the
    temperature or the seed. A record is those logits (and pooled features) with a checksum over them, its place and the
    key. A record is believed only if its checksum is right: one that was never written, was cut off by a killed process
    or a crash, was damaged later or came from another teacher counts as unknown, and is written anew.

    The whole file is reserved on the disk when it is made, so that a disk that fills up later cannot stop the run.
    Copies, and those that arrive in another process, open the same file.

    Args:
        folder: where the file is, or is made.
        key: hexadecimal; says what decides the values, and names the file.
        samples: size of the training set.
        views: how many views of a sample there are.
        width: values a record.

    Attributes:
        key: as given.
        path: the file.
        nbytes: its size.

    Raises:
        UserError: the folder cannot be written, or the disk cannot hold the file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     cache = TeacherCache(folder, key="c7cd", samples=5, views=162, width=10)
        ...     index, view = torch.tensor([4, 0]), torch.tensor([161, 7])
        ...     cache.write(index[:1], view[:1], torch.ones(1, 10))
        ...     cache.read(index, view)[1]
        tensor([ True, False])
    """

    def __init__(self, folder: str | Path, *, key: str, samples: int, views: int, width: int) -> None:
        self.key = key
        self.path = user_path(folder) / f"{key}.npy"
        self.samples = samples
        self.views = views
        self.width = width
        self._record = np.dtype([("values", "<f2", (width,)), ("check", "<u8")])
        # multilinear hashing: random weights for the values and the place, modulo 2^64
        rng = np.random.default_rng(int(key, 16))
        self._weights = rng.integers(2**64, size=width, dtype=np.uint64)
        self._place_weight, self._offset = rng.integers(2**64, size=2, dtype=np.uint64) | np.uint64(1)
        self._records = self._open()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_records"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._records = self._open()

    @property
    def nbytes(self) -> int:
        """Size of the records, bytes."""
        return self.samples * self.views * self._record.itemsize

    def read(self, index: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Look up views of samples.

        Args:
            index: (B,), int64 on the CPU, the samples' positions in the training set.
            view: (B,), int64 on the CPU.

        Returns:
            (B, width) float16, and (B,) bool, which of them are known; the others' values mean nothing.
        """
        place, inside = self._places(index, view)
        records = self._records[np.where(inside, place, 0)]
        values = np.ascontiguousarray(records["values"])
        known = inside & (records["check"] == self._checksum(place, values))
        return torch.from_numpy(values), torch.from_numpy(known)

    def write(self, index: Tensor, view: Tensor, values: Tensor) -> None:
        """Keep what the teacher gave; values that float16 cannot hold are left out.

        Args:
            index: (B,), int64 on the CPU.
            view: (B,), int64 on the CPU.
            values: (B, width) on the CPU.
        """
        place, inside = self._places(index, view)
        records = np.empty(len(place), dtype=self._record)
        records["values"] = values.to(torch.float16).numpy()
        kept = inside & np.isfinite(records["values"]).all(axis=1)
        records["check"] = self._checksum(place, np.ascontiguousarray(records["values"]))
        self._records[place[kept]] = records[kept]

    def _places(self, index: Tensor, view: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Where the records are, and whether there are such records."""
        index_, view_ = index.numpy(), view.numpy()
        inside = (index_ >= 0) & (index_ < self.samples) & (view_ >= 0) & (view_ < self.views)
        return index_ * self.views + view_, inside

    def _checksum(self, place: np.ndarray, values: np.ndarray) -> np.ndarray:
        bits = values.view(np.uint16).astype(np.uint64)
        sums = bits @ self._weights + place.astype(np.uint64) * self._place_weight + self._offset
        return np.maximum(sums, np.uint64(1))  # 0 is what an unwritten record has

    def _open(self) -> np.ndarray:
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(self.path):
                records = self._map()
                if records is None:
                    self._create()
                    records = self._map()
                if records is None:
                    raise UserError(
                        f"the teacher cache {self.path} cannot be made: remove the file, or set teacher_cache"
                    )
                self._reserve()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise UserError(self._too_large()) from error
            raise UserError(
                f"cannot write the teacher cache in {folder} ({error.strerror}): set teacher_cache to a folder that "
                "you can write, or to off"
            ) from error
        return records

    def _map(self) -> np.ndarray | None:
        """The file's records, or ``None`` where there is no such file or it is another kind of file."""
        try:
            check_regular(self.path)
            records = np.load(self.path, mmap_mode="r+", allow_pickle=False)
        except FileNotFoundError:
            return None
        except OSError:
            raise
        except Exception:  # numpy's readers name no end of errors for what is no array, or one with a damaged header
            return None
        expected = (self.samples * self.views,)
        if not isinstance(records, np.memmap) or records.shape != expected or records.dtype != self._record:
            return None
        return records

    def _create(self) -> None:
        """Put an empty file in place, whole or not at all; of several processes, the first one's stays."""
        self.path.unlink(missing_ok=True)  # not a cache of this shape: _map would have taken it
        self._check_space(self.nbytes)
        with written_whole(self.path, replace=False) as partial:
            np.lib.format.open_memmap(partial, mode="w+", dtype=self._record, shape=(self.samples * self.views,))

    def _reserve(self) -> None:
        """Have the disk set all blocks aside: a write into a mapped file has no other way to fail than a crash."""
        with open(self.path, "r+b") as file:
            status = os.fstat(file.fileno())
            self._check_space(status.st_size - 512 * status.st_blocks)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, status.st_size)

    def _check_space(self, needed: int) -> None:
        if needed > shutil.disk_usage(self.path.parent).free:
            raise UserError(self._too_large())

    def _too_large(self) -> str:
        free = shutil.disk_usage(self.path.parent).free
        return (
            f"the teacher cache in {self.path.parent} needs {decimal(self.nbytes)} for {self.samples:,} samples × "
            f"{self.views:,} views × {self.width:,} values, the disk has {decimal(free)} free: set teacher_cache to a "
            "folder on a larger disk or to off, or train on fewer views"
        )
