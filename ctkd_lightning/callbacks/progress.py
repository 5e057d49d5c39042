"""How a training shows how far it is, without slowing it down."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar as AnyBar
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

_READ_EVERY = 50  # steps between looks at the loss, each of which waits for the device
Shown = dict[str, int | str | float | dict[str, float]]


class _ShowsMeanLoss(AnyBar):
    """The mean training loss of the epoch so far.

    Lightning reads each metric that is logged for a bar at each step, and so waits for the device at each; this reads
    the loss now and then.
    """

    _loss: float | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the loss, if it is time to, and move the bar."""
        if batch_idx % _READ_EVERY == 0:
            loss = getattr(pl_module, "mean_loss", None)  # this package's modules have it
            self._loss = None if loss is None else float(loss)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Shown:
        """What the bar shows."""
        shown: Shown = {} if self._loss is None or not trainer.training else {"loss": self._loss}
        return {**shown, **super().get_metrics(trainer, pl_module)}


class ProgressBar(_ShowsMeanLoss, RichProgressBar):
    """Lightning's bar by rich with the mean training loss of the epoch so far.

    Args:
        **settings: of ``RichProgressBar``.
    """

    def _get_train_description(self, current_epoch: int) -> str:
        # Lightning counts from 0, "Epoch 0/11"; its padding stays
        described: str = super()._get_train_description(current_epoch)
        shown, _, last = described.strip().removeprefix("Epoch ").partition("/")
        counted = f"Epoch {int(shown) + 1}" + (f"/{int(last) + 1}" if last.isdigit() else "")
        return f"{counted:{len(described)}}"


class TQDMBar(_ShowsMeanLoss, TQDMProgressBar):
    """Lightning's bar by tqdm, likewise.

    Args:
        **settings: of ``TQDMProgressBar``.
    """

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Begin an epoch's bar; epochs are counted from 1."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(_epoch(trainer))


class EpochLines(AnyBar):
    """A line after each epoch, for logs and wherever else the output is no terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._started = 0.0

    def disable(self) -> None:
        """Nothing to switch off: processes beside the first are asked for no line."""

    def enable(self) -> None:
        """Likewise."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's line; the last of the epoch's hooks, so that all metrics are there."""
        loss = getattr(pl_module, "mean_loss", None)
        shown = {"loss": loss} if loss is not None else {}
        shown |= {name: value for name, value in self.get_metrics(trainer, pl_module).items() if name != "v_num"}
        numbers = [f"{name} {float(value):.4g}" for name, value in shown.items()]
        if trainer.is_global_zero:
            print(", ".join([_epoch(trainer), *numbers, f"{time.perf_counter() - self._started:.1f} s"]), flush=True)


def _epoch(trainer: Trainer) -> str:
    last = "" if trainer.max_epochs is None or trainer.max_epochs < 0 else f"/{trainer.max_epochs}"
    return f"Epoch {trainer.current_epoch + 1}{last}"
