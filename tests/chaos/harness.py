"""Run, break, go on, compare."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.chaos.cases import Case
from tests.chaos.child import forked
from tests.chaos.faults import FAULTS, FILES, PLACES, Fault, told

ROOT = Path(__file__).resolve().parents[2]
TIMES = ("train_seconds", "images_per_second")
SPARED = ("teacher_cache", "git")
"""The share of views that the cache knew when a process asked, and a broken run had asked before; the code's state."""

NOT_RESTORED = ("dirpath", "_path", "best_k_models", "current_score")
"""Of Lightning's ModelCheckpoint: the folder's name, and a score that it keeps but does not load."""

PATIENCE = 300.0  # seconds


@dataclass
class Ended:
    """A process that has ended.

    Attributes:
        status: its exit status, that of a signal negative.
        log: what it said.
        seconds: how long it took.
    """

    status: int | None
    log: str
    seconds: float


class Harness:
    """Runs of several cases, in one folder.

    Args:
        folder: for their files.
        seed: of the faults.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.wholes: dict[str, tuple[Path, dict[str, int], float]] = {}
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(
            ["ctkd_lightning.run", "ctkd_lightning.job.stages", "ctkd_lightning.job.fusion", "tests.chaos.child"]
        )

    def start(self, case: Case, run_dir: Path, environment: Mapping[str, str], *more: str) -> tuple[Any, Path]:
        """A process of a case, forked from one that has the libraries, and the file of what it says."""
        log, arguments = run_dir.with_suffix(".log"), self._arguments(case, run_dir, more)
        process: Any = self.context.Process(target=forked, args=(arguments, self._told(case, environment), str(log)))
        process.start()
        return process, log

    def run(self, case: Case, run_dir: Path, environment: Mapping[str, str], *more: str) -> Ended:
        """One process of a case, to its end."""
        started = time.perf_counter()
        if case.processes > 1:  # whose processes are started from the command line
            log = run_dir.with_suffix(".log")
            status = self._started(self._arguments(case, run_dir, more), self._told(case, environment), log)
        else:
            process, log = self.start(case, run_dir, environment, *more)
            process.join(PATIENCE)
            status = process.exitcode
            process.kill()
        text = log.read_text(errors="replace") if log.exists() else ""
        log.unlink(missing_ok=True)
        return Ended(status, text, time.perf_counter() - started)

    def _arguments(self, case: Case, run_dir: Path, more: tuple[str, ...]) -> list[str]:
        return [*case.settings, f"run_dir={run_dir}", *([] if case.script else more)]

    def _told(self, case: Case, environment: Mapping[str, str]) -> dict[str, str]:
        told = {"CTKD_CACHE_DIR": str(self.folder / "cache"), "OMP_NUM_THREADS": "1", **environment}
        return {**told, "CTKD_CHAOS_SCRIPT": case.script} if case.script else told

    def _started(self, arguments: list[str], environment: Mapping[str, str], log: Path) -> int | None:
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.child", *arguments],
                cwd=ROOT, env={**os.environ, **environment}, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
            try:
                return process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                return None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # whom a killed one leaves behind

    def whole(self, case: Case) -> tuple[Path, dict[str, int], float]:
        """A case's run that was never broken, how often it reached each place, and how long it took."""
        if case.name not in self.wholes:
            name = case.name.replace(", ", "_").replace(" ", "_")
            run_dir, counts = self.folder / f"{name}_whole", self.folder / f"{name}.json"
            self.run(case, self.folder / f"{name}_first", {})  # makes what the cache keeps
            ended = self.run(case, run_dir, told(None, counts))
            if ended.status != 0:
                raise RuntimeError(f"{case.name} ends with {ended.status} when nothing breaks it:\n{ended.log[-2000:]}")
            self.wholes[case.name] = run_dir, json.loads(counts.read_text()), ended.seconds
        return self.wholes[case.name]

    def draw(self, case: Case, kinds: list[str]) -> Fault:
        """A fault that the case comes to."""
        _, counts, seconds = self.whole(case)
        kind = self.random.choice([kind for kind in kinds if kind != "full" or not case.script])
        if case.script:
            kind, places = "kill", ["step", "epoch end", "epoch over", "any time"]
        else:
            places = [place for place in PLACES if place == "any time" or counts.get(place)]
        if kind == "full":
            places = [place for place in places if place in FILES]
        place = self.random.choice(places)
        at = self.random.uniform(0.2, seconds) if place == "any time" else self.random.randint(1, counts[place])
        rank = self.random.randrange(case.processes) if place in ("step", "epoch end", "any time") else 0
        return Fault(kind, place, at, rank)

    def break_once(self, case: Case, number: int, kinds: list[str]) -> tuple[list[Fault], list[str]]:
        """Break a run, once or several times, let it end, and compare.

        Returns:
            What went wrong in it, and what is not as it should be.
        """
        whole, *_ = self.whole(case)
        run_dir = self.folder / f"broken_{number}"
        faults: list[Fault] = []
        wrong: list[str] = []
        for more in ((), ("resume=auto",), ("resume=auto",)):
            if more and self.random.random() < 0.6:
                break
            fault = self.draw(case, kinds)
            faults.append(fault)
            ended = self.run(case, run_dir, told(fault), *more)
            wrong += self.endings(case, fault, ended, resumed=bool(more))
        ended = self.run(case, run_dir, {}, "resume=auto")
        if ended.status != 0:
            return faults, [*wrong, f"ends with {ended.status} after that: {ended.log[-1500:]}"]
        return faults, [*wrong, *differences(whole, run_dir)]

    def endings(self, case: Case, fault: Fault, ended: Ended, *, resumed: bool) -> Iterator[str]:
        """What is not as it should be in how a broken process ended."""
        expected = {FAULTS[fault.kind]}
        if resumed or fault.place == "any time" or fault.kind == "full":
            expected.add(0)  # it may not come to the place again; and what is only kept for later may be left out
        if case.processes > 1:
            expected.add(1)  # the other process's end, as torch tells of it
            expected |= {-signal.SIGKILL} if fault.rank else set()
        if case.script:
            expected = {*expected, 1}
        if ended.status not in expected:
            yield f"{fault} ends with {ended.status}: {ended.log[-600:]}"
        if case.processes == 1 and not case.script and "Traceback" in ended.log:
            yield f"{fault}: a traceback: {ended.log[-1500:]}"


def differences(whole: Path, broken: Path) -> Iterator[str]:
    """What a run that was broken has otherwise than the one that was not."""
    yield from _checkpoints(whole, broken)
    for name in ("metrics.csv", "temperatures.json"):
        texts = [(folder / name).read_text() if (folder / name).exists() else None for folder in (whole, broken)]
        if texts[0] != texts[1]:
            yield f"{name} differs"
    for name in ("student.safetensors", "fused.safetensors", "encoders.safetensors", "test_outputs.safetensors"):
        contents = [(folder / name).read_bytes() if (folder / name).exists() else None for folder in (whole, broken)]
        if contents[0] != contents[1]:
            yield f"{name} differs"
    if (whole / "summary.json").exists():
        summaries = [_summary(folder) for folder in (whole, broken)]
        for key in summaries[0].keys() | summaries[1].keys():
            if summaries[0].get(key) != summaries[1].get(key):
                yield f"summary.json: {key} is {summaries[1].get(key)}, not {summaries[0].get(key)}"
    left = [str(path.relative_to(broken)) for path in broken.rglob(".*") if path.name != ".hydra"]
    if left:
        yield f"left behind: {', '.join(left)}"


def _summary(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "summary.json").read_text())
    for part in [found, *(value for value in found.values() if isinstance(value, dict))]:
        for name in (*TIMES, *SPARED):
            part.pop(name, None)
    return dict(found)


def _checkpoints(whole: Path, broken: Path) -> Iterator[str]:
    names = [path.relative_to(whole) for pattern in ("*.ckpt", "*.pt") for path in whole.rglob(pattern)]
    for name in names:
        if not (broken / name).exists():
            yield f"{name} is missing"
            continue
        contents = [torch.load(folder / name, map_location="cpu", weights_only=True) for folder in (whole, broken)]
        different = [path for path in _unequal(*contents) if not any(word in path for word in NOT_RESTORED)]
        if different:
            yield f"{name}: {', '.join(different[:3])} differ"


def _unequal(a: Any, b: Any, path: str = "") -> Iterator[str]:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or not torch.equal(a, b):
            yield path
    elif isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in {**a, **b}:
            if (key in a) != (key in b):
                yield f"{path}/{key}"
            else:
                yield from _unequal(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        for place, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _unequal(x, y, f"{path}/{place}")
    elif a != b and not (a != a and b != b):
        yield path
