"""SIGTERM in a Trainer."""

from __future__ import annotations

import os
import signal
import time
from subprocess import Popen

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import TorchElasticEnvironment

from ctkd_lightning.job.signals import stop_on_sigterm

_PATIENCE = 10.0  # seconds: torchrun looks at its processes several times in each


class StopOnSigterm(Callback):
    """Let SIGTERM to any one of a Trainer's processes end all of them at once, as it ends the program elsewhere.

    Lightning's own handler waits for the end of a batch of a training, ignores the signal in tests, and where there are
    several processes waits until all of them have received it. Under SLURM it stays: there it is part of requeueing.
    """

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the place of Lightning's handler, which it sets before each of these hooks."""
        if "SLURM_NTASKS" not in os.environ:
            stop_on_sigterm()

    on_train_start = on_validation_start = on_test_start = on_sanity_check_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop the other processes with this one, and this one with the others."""
        if isinstance(exception, SystemExit):
            _stop_others(trainer)
        elif TorchElasticEnvironment.detect() and _is_of_connection(exception):
            time.sleep(_PATIENCE)  # torchrun tells the others of the one that it has lost


def _stop_others(trainer: Trainer) -> None:
    launcher = trainer.strategy.launcher
    if launcher is None:
        return
    started_by_launcher: list[Popen[bytes]] = getattr(launcher, "procs", [])
    if started := list(started_by_launcher):
        started_by_launcher.clear()  # Lightning watches them, and would kill this process too as it writes its summary
        for process in started:
            process.kill()  # it may wait for this one
            process.wait()
    elif trainer.local_rank and not TorchElasticEnvironment.detect():
        # started by the first one, which must hear of it before Lightning sees this one's end, and kills it
        os.kill(os.getppid(), signal.SIGTERM)


def _is_of_connection(error: BaseException) -> bool:
    """Whether a process has lost another: NCCL's errors have a type, gloo's a text."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
