"""One run, in a process of its own."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from tests.chaos import faults


def main() -> None:
    """Run the command, or the script that ``CTKD_CHAOS_SCRIPT`` names, with this process's arguments."""
    faults.install()
    module = importlib.import_module(os.environ.get("CTKD_CHAOS_SCRIPT", "ctkd_lightning.run"))
    module.main()


def forked(arguments: Sequence[str], environment: Mapping[str, str], log: str) -> None:
    """The same in a process that was forked from one that has the libraries: imports take longer than a small run."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which what a shell starts behind it ignores
    multiprocessing.set_start_method("fork", force=True)  # of loaders, as where nothing was forked
    sys.argv = ["tests.chaos", *arguments]
    main()


if __name__ == "__main__":
    main()
