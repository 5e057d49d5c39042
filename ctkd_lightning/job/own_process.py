"""A job of a sweep in an interpreter of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from ctkd_lightning.errors import UserError

_PATIENCE = 30.0  # seconds for a job that is told to stop


def run_in_own_process(overrides: Sequence[str], run_dir: Path) -> None:
    """Run one job as a command, and wait for its end.

    Args:
        overrides: of the job.
        run_dir: for what it makes.

    Raises:
        UserError: it ended with another status than 0.
    """
    settings = [override for override in overrides if not override.startswith("run_dir=")]
    folder = str(run_dir).replace("\\", "\\\\").replace("'", "\\'")
    command = [sys.executable, "-m", "ctkd_lightning.run", *_own_configurations(), *settings, f"run_dir='{folder}'"]
    process = subprocess.Popen(command, env=_environment(os.environ))
    try:
        status = process.wait()
    except BaseException as stop:
        _stop(process, told=isinstance(stop, KeyboardInterrupt))  # a terminal tells all its processes
        raise
    if status:
        ended = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        raise UserError(f"the sweep's job in {run_dir} ended {ended}; see its messages above")


def _own_configurations() -> list[str]:
    """The user's ``--config-dir``, which the job needs too."""
    sources = HydraConfig.get().runtime.config_sources
    return [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]


def _stop(process: subprocess.Popen[bytes], told: bool) -> None:
    """Let a job write what it has, and end the processes that it has started."""
    for stop in (None if told else process.terminate, process.terminate, process.kill):
        if stop is not None:
            stop()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
            return


def _environment(found: Mapping[str, str]) -> dict[str, str]:
    """For the job: where SLURM has given one task, the job starts its processes itself.

    Lightning would take them for SLURM's tasks, and refuse two where there is one.
    """
    if found.get("SLURM_NTASKS") != "1":
        return dict(found)
    return {name: value for name, value in found.items() if name not in ("SLURM_NTASKS", "SLURM_PROCID")}
