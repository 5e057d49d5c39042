"""Several processes of a test at once."""

import datetime
import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[1]
FORK = multiprocessing.get_context("fork")


def run_in_processes(count: int, target: Callable[..., None], *arguments: Any) -> list[int | None]:
    """Run ``target(*arguments)`` in so many processes at once, and wait for them; their exit codes."""
    processes = [FORK.Process(target=target, args=arguments) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


class TwoRanks:
    """Two processes of one gloo group, forked (no second import of torch), that each call ``target(rank)``.

    Args:
        target: what it gives is what :meth:`results` gives; in a rank that fails, how it failed.
        folder: for files in between.
    """

    def __init__(self, target: Callable[[int], Any], folder: Path) -> None:
        self.folder = folder
        self.processes = [FORK.Process(target=self._run, args=(target, rank)) for rank in range(2)]
        for process in self.processes:
            process.start()

    def _run(self, target: Callable[[int], Any], rank: int) -> None:
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo",
            init_method=f"file://{self.folder}/store",
            rank=rank,
            world_size=2,
            timeout=datetime.timedelta(seconds=60),
        )
        try:
            found = target(rank)
        except Exception:
            found = traceback.format_exc()
        torch.save(found, self.folder / f"{rank}.pt")
        os._exit(0)  # without waiting for the other, which may have failed

    def results(self) -> list[Any]:
        """What each gave, after both have ended."""
        for process in self.processes:
            process.join(240)
        files = [self.folder / f"{rank}.pt" for rank in range(2)]
        assert all(file.is_file() for file in files), "a process died"
        return [torch.load(file, weights_only=True) for file in files]


def once_for_all_workers(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Any:
    """What ``make(folder)`` gives, tensors and their like; only the first of pytest's workers that asks makes it.

    Args:
        tmp_path_factory: pytest's.
        name: of it, in this test run.
        make: in a folder of its own.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made := folder / "made.pt").is_file():
            torch.save(make(folder), made)
    return torch.load(made, weights_only=True)


def launch_two(module: str, folder: Path) -> list[Any]:
    """Run ``python -m module folder`` in two processes of one launcher; what each wrote into ``folder/RANK.json``."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "-m", module, str(folder)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
