"""Named places of a run, and what goes wrong there.

The command knows nothing of this: a process that is told of a fault by ``CTKD_CHAOS`` wraps the functions of its places
before it starts.
"""

from __future__ import annotations

import errno
import functools
import importlib
import io
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

VARIABLE = "CTKD_CHAOS"

_LOOPS = "lightning.pytorch.loops"
PLACES: dict[str, tuple[str, str]] = {
    "step": (f"{_LOOPS}.training_epoch_loop:_TrainingEpochLoop.advance", "before"),
    "epoch end": (f"{_LOOPS}.fit_loop:_FitLoop.on_advance_end", "before"),
    "epoch over": (f"{_LOOPS}.fit_loop:_FitLoop.on_advance_end", "after"),
    "validation or test": (f"{_LOOPS}.evaluation_loop:_EvaluationLoop.run", "before"),
    "checkpoint half written": ("torch:save", "within"),
    "file before its rename": ("os:replace", "before"),
    "file after its rename": ("os:replace", "after"),
    "checkpoint written": ("ctkd_lightning.job.checkpoints:RunCheckpoints.save_checkpoint", "after"),
    "rows written": ("ctkd_lightning.job.metrics:MetricsFile.save", "after"),
    "training over": ("ctkd_lightning.job.training:Training.run", "after"),
    "summary": ("ctkd_lightning.job.summary:RunSummary.write", "before"),
    "any time": ("", ""),
}
FILES = ("checkpoint half written", "file before its rename")
"""Where a disk can be full."""

FAULTS = {"kill": -signal.SIGKILL, "term": 143, "interrupt": 130, "full": 1}
"""What goes wrong, and the status that the command ends with."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and where.

    Attributes:
        kind: one of :data:`FAULTS`.
        place: one of :data:`PLACES`.
        at: the place's call, from 1; at any time seconds.
        rank: the process.
    """

    kind: str
    place: str
    at: float
    rank: int = 0

    def __str__(self) -> str:
        where = f"after {self.at:.2f} s" if self.place == "any time" else f"{self.place} {self.at:g}"
        return f"{self.kind} at {where}" + (f" on rank {self.rank}" if self.rank else "")

    def happen(self) -> None:
        """Let it happen, in this process."""
        if self.kind == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM, "interrupt": signal.SIGINT}[self.kind])


def told(fault: Fault | None, counts: Path | None = None) -> dict[str, str]:
    """The environment that tells a process: of a fault, or of a file to write how often each place was reached."""
    if fault is not None:
        return {VARIABLE: json.dumps(asdict(fault))}
    return {} if counts is None else {VARIABLE: json.dumps({"counts": str(counts)})}


def install() -> None:
    """Wrap the places of this process as its environment says."""
    settings = json.loads(os.environ.get(VARIABLE, "{}"))
    if not settings:
        return
    if "counts" in settings:
        _count_all(Path(settings["counts"]))
        return
    fault = Fault(**settings)
    if int(os.environ.get("LOCAL_RANK", 0)) != fault.rank:
        return
    if fault.place == "any time":
        threading.Thread(target=lambda: (time.sleep(fault.at), fault.happen()), daemon=True).start()
        return
    calls = 0

    def reached() -> bool:
        nonlocal calls
        calls += 1
        return calls == fault.at

    def happen() -> None:
        os.environ.pop(VARIABLE, None)
        fault.happen()

    _wrap(fault.place, reached, happen)


def _count_all(file: Path) -> None:
    counts: Counter[str] = Counter()

    def counting(place: str) -> Callable[[], bool]:
        def reached() -> bool:
            counts[place] += 1
            file.write_text(json.dumps(counts))
            return False

        return reached

    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        for place in PLACES:
            if place != "any time":
                _wrap(place, counting(place), lambda: None)


def _wrap(place: str, reached: Callable[[], bool], happen: Callable[[], None]) -> None:
    target, when = PLACES[place]
    module, _, path = target.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            result = original(*args, **kwargs)
            if reached():
                happen()
            return result
        if reached():
            if when == "within":
                _half(original, *args)
            happen()
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def _half(save: Callable[..., None], content: Any, file: Any, *_: Any) -> None:
    """Write the first half of what ``torch.save`` would."""
    whole = io.BytesIO()
    save(content, whole)
    half = whole.getvalue()[: whole.tell() // 2]
    if isinstance(file, (str, os.PathLike)):
        Path(file).write_bytes(half)


assert torch.save  # its name is among the places
