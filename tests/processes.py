"""Several processes of a test at once."""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def launch_two(module: str, folder: Path) -> list[Any]:
    """Run ``python -m module folder`` in two processes of one launcher; what each wrote into ``folder/RANK.json``."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "-m", module, str(folder)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
