"""Several processes of a test at once."""

import multiprocessing
from collections.abc import Callable
from typing import Any

FORK = multiprocessing.get_context("fork")


def run_in_processes(count: int, target: Callable[..., None], *arguments: Any) -> list[int | None]:
    """Run ``target(*arguments)`` in so many processes at once, and wait for them; their exit codes."""
    processes = [FORK.Process(target=target, args=arguments) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]
