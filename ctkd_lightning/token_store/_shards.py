"""A store's files of records: a shard of tokens, and the index of its documents."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ctkd_lightning._files import written_whole
from ctkd_lightning._reading import check_regular
from ctkd_lightning.errors import UserError
from ctkd_lightning.token_store._manifest import check_sum

DOCUMENT = np.dtype([("key", "<i8"), ("start", "<i8"), ("length", "<i8"), ("check", "<u4")])
"""Where a document's tokens are in their shard, and the check sum of their records."""


def records_path(folder: Path, name: str) -> Path:
    """The records of a shard."""
    return folder / f"{name}.tokens.npy"


def index_path(folder: Path, name: str) -> Path:
    """Its index, which is written last: a shard without one does not count."""
    return folder / f"{name}.documents.npy"


def shard_name(number: int) -> str:
    """Names that sort as the numbers do."""
    return f"{number:06d}"


def write_shard(folder: Path, name: str, keys: list[int], documents: list[np.ndarray]) -> None:
    """Put a shard in its place, whole."""
    index = np.empty(len(keys), dtype=DOCUMENT)
    index["key"] = keys
    index["length"] = [len(records) for records in documents]
    index["start"] = np.cumsum(index["length"]) - index["length"]
    index["check"] = [record_check(records) for records in documents]
    for path, array in ((records_path(folder, name), np.concatenate(documents)), (index_path(folder, name), index)):
        with written_whole(path) as partial, open(partial, "wb") as file:
            np.lib.format.write_array(file, array, allow_pickle=False)


def record_check(records: np.ndarray) -> int:
    """The check sum of a document's records."""
    return zlib.crc32(records.tobytes())


def read_index(folder: Path, name: str) -> np.ndarray:
    """The documents of a shard.

    Raises:
        UserError: there is none, or it is damaged.
    """
    found = _load(index_path(folder, name), None)
    if found.dtype != DOCUMENT or found.ndim != 1:
        raise UserError(f"{index_path(folder, name)} is damaged: start the writer of the token store again")
    return found


def map_records(folder: Path, name: str, dtype: np.dtype) -> np.ndarray:
    """The records of a shard, in the file.

    Raises:
        UserError: there are none, or of another layout.
    """
    found = _load(records_path(folder, name), "r")
    if found.dtype != dtype or found.ndim != 1:
        raise UserError(f"{records_path(folder, name)} is damaged: start the writer of the token store again")
    return found


def check_shard(folder: Path, name: str, expected: str) -> None:
    """Compare a shard's index with its check sum.

    Raises:
        UserError: it is missing, or another.
    """
    path = index_path(folder, name)
    if not path.is_file() or check_sum(path) != expected:
        raise UserError(f"{path} is missing or damaged: start the writer of the token store again")


def _load(path: Path, mode: Any) -> np.ndarray:
    try:
        check_regular(path)
        found: np.ndarray = np.load(path, mmap_mode=mode, allow_pickle=False)
        return found
    except Exception as error:  # numpy's readers name no end of errors for what is no array
        raise UserError(f"{path} is missing or damaged: start the writer of the token store again") from error
