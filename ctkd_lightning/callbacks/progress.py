"""A progress bar that does not slow the training down."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

_READ_EVERY = 50  # steps between looks at the loss, each of which waits for the device


class ProgressBar(RichProgressBar):
    """Lightning's bar with the mean training loss of the epoch so far.

    Lightning reads each metric that is logged for a bar at each step, and so waits for the device at each; this reads
    the loss now and then.

    Args:
        **settings: of ``RichProgressBar``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._loss: float | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the loss, if it is time to, and move the bar."""
        if batch_idx % _READ_EVERY == 0:
            loss = getattr(pl_module, "mean_loss", None)  # this package's modules have it
            self._loss = None if loss is None else float(loss)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _get_train_description(self, current_epoch: int) -> str:
        # Lightning counts from 0, "Epoch 0/11"; its padding stays
        described: str = super()._get_train_description(current_epoch)
        shown, _, last = described.strip().removeprefix("Epoch ").partition("/")
        counted = f"Epoch {int(shown) + 1}" + (f"/{int(last) + 1}" if last.isdigit() else "")
        return f"{counted:{len(described)}}"

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What the bar shows."""
        shown = {} if self._loss is None or not trainer.training else {"loss": self._loss}
        return {**shown, **super().get_metrics(trainer, pl_module)}
