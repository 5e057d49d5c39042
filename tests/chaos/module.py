"""The modules and data of this package in a Trainer of one's own."""

from __future__ import annotations

import sys
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from ctkd_lightning import DistillationModule, InstanceTemperature
from ctkd_lightning.data import Fake
from tests.quiet import quiet_trainer


def network(seed: int) -> nn.Sequential:
    """A small network with dropout."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))


class Logged(Callback):
    """Keeps in the checkpoints what each epoch has logged."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        own = isinstance(pl_module, DistillationModule)  # logs its losses after this, and those here are older
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.epochs.append({name: value for name, value in found.items() if not (own and name.startswith("train/"))})

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = state_dict["epochs"]


def fit(module: LightningModule, run_dir: str, *callbacks: Callback) -> None:
    """Train on, from the last checkpoint where there is one."""
    data = Fake(train_size=96, test_size=32, image_size=8, batch_size=16, num_classes=4, num_workers=0, val_size=16)
    checkpoint = ModelCheckpoint(run_dir, filename="end", save_last=True, every_n_epochs=1)
    callbacks = (*callbacks, Logged(), checkpoint)
    trainer = quiet_trainer(run_dir, max_epochs=3, callbacks=list(callbacks), enable_checkpointing=True)
    trainer.fit(module, data, ckpt_path="last", weights_only=True)


def main() -> None:
    """Train in the folder that ``run_dir=`` names."""
    seed_everything(1, verbose=False)
    module = DistillationModule(network(1).eval(), network(2), temperature=InstanceTemperature(num_classes=4))
    fit(module, next(word for word in sys.argv if word.startswith("run_dir=")).removeprefix("run_dir="))
