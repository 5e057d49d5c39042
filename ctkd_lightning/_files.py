"""Paths as users write them, and files that are whole and written by one process."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from ctkd_lightning.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".partial"
"""How the name of a file ends that is not whole yet."""


def user_path(path: str | Path) -> Path:
    """A path that a user gave, with ``~`` as the home folder.

    Raises:
        UserError: a user's home folder that is not known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"the home folder in {path} is not known: write the path out") from error


@contextlib.contextmanager
def written_whole(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Write a file that a reader finds whole or not at all, whatever stops the writer.

    Args:
        path: the file; its folder is made.
        replace: take the place of a file that is there; else that one stays.

    Yields:
        The name to write to, in the same folder.

    Raises:
        OSError: the folder or the file cannot be written.

    Example:
        >>> with written_whole(Path("settings.json")) as partial:  # doctest: +SKIP
        ...     partial.write_text("{}")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())  # or a crash of the machine may leave the name without the content
        if replace:
            os.replace(partial, path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def owned(folder: Path, patience: float = 10.0) -> Iterator[None]:
    """Keep a folder to this process until the end of the block; where its file system has no locks, nothing is kept.

    A lock ends with its process, however that ends: a file that is left behind is none. But the loaders' processes
    have it too, and outlive a killed one by some seconds.

    Args:
        folder: made where it is missing.
        patience: seconds to wait for whoever has it.

    Raises:
        UserError: another process has it, on this machine or on another that shares the folder.
    """
    lock, until = folder / ".lock", time.monotonic() + patience
    while True:
        try:
            descriptor = _acquire(lock, wait=False)
            break
        except BlockingIOError:
            if time.monotonic() > until:
                raise UserError(f"{folder} is in use by {_owner(lock)}: wait for its end, or take another") from None
            time.sleep(0.1)
    try:
        if descriptor is not None:
            with contextlib.suppress(OSError):  # of a full disk
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        _release(lock, descriptor)


def _owner(lock: Path) -> str:
    try:
        return lock.read_text(errors="replace").strip() or "another process"
    except OSError:
        return "another process"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time make ``path``, on this machine or on others that share its folder.

    The others wait at the start of the block, and had best look there for what the first one has made. Where the folder
    cannot be written or its file system has no locks, nobody waits.
    """
    lock = path.with_name(f".{path.name}.lock")
    descriptor = _acquire(lock)
    try:
        yield
    finally:
        _release(lock, descriptor)


def _release(lock: Path, descriptor: int | None) -> None:
    if descriptor is not None:
        lock.unlink(missing_ok=True)
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # to close it would not do: forked workers have it open, too
        os.close(descriptor)


def _acquire(lock: Path, *, wait: bool = True) -> int | None:
    if fcntl is None:
        return None
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                    return descriptor
            except FileNotFoundError:
                pass  # whoever had the lock has removed its file: the next one is another file
            except BlockingIOError:
                os.close(descriptor)
                raise
            except OSError:
                os.close(descriptor)
                return None
            os.close(descriptor)
    except BlockingIOError:
        raise
    except OSError:
        return None
