"""``python -m tests.chaos.load``: many runs at once that share a teacher and its outputs, and a long sweep."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from tests.chaos.cases import CASES
from tests.chaos.harness import PATIENCE, ROOT, Harness, differences

_CACHED = next(case for case in CASES if case.name == "kd, teacher cache")


def at_once(folder: Path, runs: int) -> Iterator[str]:
    """What runs that start together without a teacher have otherwise than one that ran alone."""
    harness = Harness(folder)
    alone = folder / "alone"
    harness.run(_CACHED, alone, {"CTKD_CACHE_DIR": str(folder / "other_cache")})
    together = [harness.start(_CACHED, folder / f"run_{number}", {}) for number in range(runs)]
    for number, (process, log) in enumerate(together):
        process.join(PATIENCE)
        if process.exitcode != 0:
            yield f"run {number} ends with {process.exitcode}: {log.read_text()[-600:]}"
            process.kill()
        else:
            yield from (f"run {number}: {line}" for line in differences(alone, folder / f"run_{number}"))
    trained = sorted((folder / "cache" / "teachers").glob("*/teacher.safetensors"))
    if len(trained) != 1:
        yield f"{len(trained)} teachers"
    yield from left_behind(folder)


def sweep(folder: Path, jobs: int) -> Iterator[str]:
    """What a sweep of so many jobs leaves behind beside its results."""
    run_dir, scratch = folder / "sweep", folder / "tmp"
    scratch.mkdir()
    environment = {**os.environ, "CTKD_CACHE_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment |= {"TMPDIR": str(scratch)}
    seeds = ",".join(str(seed) for seed in range(1, jobs + 1))
    settings = [*_CACHED.settings, "max_epochs=1", f"run_dir={run_dir}", f"seed={seeds}"]
    started = subprocess.run(
        [sys.executable, "-m", "ctkd_lightning.run", "-m", *settings],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if started.returncode != 0:
        yield f"the sweep ends with {started.returncode}: {started.stderr[-600:]}"
    finished = len(list(run_dir.glob("*/summary.json")))
    if finished != jobs:
        yield f"{finished} of {jobs} jobs have a summary"
    left = [path.name for path in scratch.iterdir() if not path.name.startswith("torchinductor_")]  # torch's own
    yield from (f"left in TMPDIR: {name}" for name in left)
    yield from left_behind(folder)
    yield from (f"still runs: {line}" for line in _processes(str(run_dir)))


def left_behind(folder: Path) -> Iterator[str]:
    """Locks and files that are not whole."""
    for path in folder.rglob("*"):
        if path.name.endswith((".partial", ".lock")) or path.name in (".jobs", ".lock"):
            yield f"left behind: {path.relative_to(folder)}"


def _processes(word: str) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if word in line]


def main() -> None:
    """Print what is not as it should be, and exit with status 1 where anything is."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.load", description=main.__doc__)
    parser.add_argument("--runs", type=int, default=20, help="that start together")
    parser.add_argument("--jobs", type=int, default=100, help="of the sweep")
    arguments = parser.parse_args()
    console, wrong = Console(), 0
    for title, check, count in (("runs at once", at_once, arguments.runs), ("jobs", sweep, arguments.jobs)):
        with tempfile.TemporaryDirectory(prefix="load") as folder:
            started = time.perf_counter()
            found = list(check(Path(folder), count)) if count else []
        for line in found:
            console.print(f"  {line}", markup=False, highlight=False)
        console.print(f"{count} {title}: {len(found)} differences, {time.perf_counter() - started:.0f} s")
        wrong += len(found)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
