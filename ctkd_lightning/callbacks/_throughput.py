"""How fast a training is."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ctkd_lightning._scores.batches import samples_in


class Throughput(Callback):
    """Count trained images and the time that training them took, validation and checkpoints left out.

    The first batch of an epoch is not counted, nor the time until it is done: it waits for loaders to start and
    kernels to be chosen. Under several processes an instance counts its own.

    Attributes:
        images: trained since the start of fit.
        seconds: wall-clock time for them.
    """

    def __init__(self) -> None:
        self.images = 0
        self.seconds = 0.0
        self._since = 0.0

    @property
    def images_per_second(self) -> float | None:
        """Rate over the whole training; None where no epoch had two batches."""
        return self.images / self.seconds if self.seconds > 0 else None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock after an epoch's first batch, read it after each of the rest."""
        now = time.perf_counter()
        if self._since:
            self.images += samples_in(batch)
            self.seconds += now - self._since
        self._since = 0.0 if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch else now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._since = 0.0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._since = 0.0
