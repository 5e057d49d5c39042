"""SIGTERM in a Trainer."""

from __future__ import annotations

import os
import signal

from lightning.pytorch import Callback, LightningModule, Trainer

from ctkd_lightning.job.signals import stop_on_sigterm


class StopOnSigterm(Callback):
    """Let SIGTERM end a Trainer's work at once, as it ends the program elsewhere.

    Lightning's own handler waits for the end of a batch of a training, ignores the signal in tests, and where there are
    several processes waits until all of them have received it. Under SLURM it stays: there it is part of requeueing.
    """

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the place of Lightning's handler, which it sets before each of these hooks."""
        if "SLURM_NTASKS" not in os.environ:
            stop_on_sigterm()

    on_train_start = on_validation_start = on_test_start = on_sanity_check_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the processes that this one has started, which may wait for it."""
        launcher = trainer.strategy.launcher
        if isinstance(exception, SystemExit) and launcher is not None:
            launcher.kill(signal.SIGKILL)
