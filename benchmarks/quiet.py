"""Lightning without its files and messages, so that a benchmark's own lines are all there is to read."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from lightning.pytorch import Trainer


def quiet_trainer(accelerator: str, **settings: Any) -> Trainer:
    """A Trainer on one device that writes nothing and validates nothing."""
    defaults: dict[str, Any] = {
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
    }
    return Trainer(accelerator=accelerator, **(defaults | settings))


def hush(*loggers: str) -> None:
    """No warnings, and of Lightning and ``loggers`` errors only."""
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", *loggers):
        logging.getLogger(name).setLevel(logging.ERROR)
