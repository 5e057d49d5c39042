"""Reading files that somebody else may have written: regular ones alone, of a size that can be held."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from ctkd_lightning._words import printable
from ctkd_lightning.errors import UserError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

TEXT_LIMIT = 64 * 2**20
"""Bytes of the largest text that is read whole: a run's tables and numbers have kilobytes."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def check_regular(path: Path, most: int | None = None) -> int:
    """Refuse what is no regular file before it is opened: a pipe would wait for a writer, a device has no end.

    Args:
        path: the file, or a link to one.
        most: bytes; whatever this process can hold by default.

    Returns:
        Its size, bytes.

    Raises:
        FileNotFoundError: there is nothing.
        UserError: another kind of thing, such as a link to itself, or a file that is too large.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give another file") from error
    if not stat.S_ISREG(status.st_mode):
        what = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise UserError(f"{path} is {what}, not a file: give a file")
    most = memory() if most is None else most
    if status.st_size > most:
        raise UserError(
            f"{path} has {decimal(status.st_size)}, and {decimal(most)} at most can be read: give another file"
        )
    return status.st_size


def read_text(path: Path, most: int = TEXT_LIMIT) -> str:
    """The text in a file.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: it is no UTF-8.
        UserError: as :func:`check_regular`.
    """
    check_regular(path, most)
    return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:
    """The content of a JSON file, whose texts can be shown.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: it is no JSON, or one inside the other too often.
    """
    try:
        return json.loads(read_text(path), object_pairs_hook=_shown)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _shown(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {printable(name): shown(value) for name, value in pairs}


def shown(value: Any) -> Any:
    """A value of JSON whose texts, alone or in lists, are :func:`~ctkd_lightning._words.printable`."""
    if isinstance(value, str):
        return printable(value)
    return [shown(each) for each in value] if isinstance(value, list) else value


def check_held(needed: int, what: str) -> None:
    """Refuse what this process cannot hold, before the system ends it for trying.

    Args:
        needed: bytes.
        what: takes them, as in ``"test_size=9000000"``.

    Raises:
        UserError: naming both.
    """
    if needed > (most := memory()):
        raise UserError(f"{what} takes {decimal(needed)}, and {decimal(most)} at most can be held: lower it")


def memory() -> int:
    """Bytes that this process can hold at most: those of the machine, or fewer where it is limited."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**62
    if resource is not None:
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        most = most if limit == resource.RLIM_INFINITY else min(most, limit)
    return most
