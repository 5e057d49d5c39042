"""The modules and data of this package in a Trainer of one's own."""

from __future__ import annotations

import sys

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


def fit(module: LightningModule, run_dir: str, *callbacks: Callback) -> Trainer:
    """Train on, from the last checkpoint where there is one; then keep what was logged."""
    data = Fake(train_size=96, test_size=32, image_size=8, batch_size=16, num_classes=4, num_workers=0, val_size=16)
    checkpoint = ModelCheckpoint(run_dir, filename="end", save_last=True, every_n_epochs=1)
    trainer = quiet_trainer(run_dir, max_epochs=3, callbacks=[*callbacks, checkpoint], enable_checkpointing=True)
    trainer.fit(module, data, ckpt_path="last", weights_only=True)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    torch.save({"logged": logged}, f"{run_dir}/logged.pt")
    return trainer


def main() -> None:
    """Train in the folder that ``run_dir=`` names."""
    seed_everything(1, verbose=False)
    module = DistillationModule(network(1).eval(), network(2), temperature=InstanceTemperature(num_classes=4))
    fit(module, next(word for word in sys.argv if word.startswith("run_dir=")).removeprefix("run_dir="))
