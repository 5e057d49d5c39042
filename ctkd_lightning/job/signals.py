"""Signals that stop a program: at once, wherever it is, and with the status that a shell expects."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough: what is being written at the end shall be whole
    raise SystemExit(TERMINATED)


def stop_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does, with status 143; in the main thread, others get no signals."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


@contextmanager
def stopping() -> Iterator[None]:
    """As :func:`stop_on_sigterm`, until the end of the block."""
    before = signal.getsignal(signal.SIGTERM)
    stop_on_sigterm()
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def exit_status(stop: BaseException) -> int:
    """The status of a program that was stopped: 130 by Ctrl-C, else 143, never 0.

    Lightning makes ``SystemExit(1)`` of Ctrl-C in a Trainer.
    """
    cause: BaseException | None = stop
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return INTERRUPTED
        cause = cause.__context__
    code = stop.code if isinstance(stop, SystemExit) else None
    return code if isinstance(code, int) and code else TERMINATED
