"""One of two processes of a training under FSDP2: writes what it ended with."""

import json
import os
import sys
from pathlib import Path

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.tensor import DTensor

from ctkd_lightning.data import Fake
from ctkd_lightning.methods import KD
from ctkd_lightning.modules import DistillationModule
from ctkd_lightning.temperature import GlobalTemperature
from tests.quiet import quiet_trainer


def network(width):
    torch.manual_seed(width)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.ReLU(), nn.Linear(width, 4))


def train(folder, batch_size, **settings):
    """The module after two epochs and its Trainer; batches of so many samples a process."""
    data = Fake(train_size=64, test_size=32, image_size=8, batch_size=batch_size, num_classes=4, padding=1, val_size=0)
    module = DistillationModule(network(32), network(16), method=KD(), temperature=GlobalTemperature())
    trainer = quiet_trainer(folder, max_epochs=2, use_distributed_sampler=False, **settings)
    trainer.fit(module, datamodule=data)
    return module, trainer


def whole(tensor):
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def main():
    folder = Path(sys.argv[1])
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False)
    module, trainer = train(folder, 8, devices=2, strategy=strategy)
    trainer.save_checkpoint(folder / "last.ckpt", weights_only=False)
    found = {
        "weights": {name: whole(value).tolist() for name, value in module.named_parameters()},
        "teacher": sorted({type(value).__name__ for value in module.teacher.network.parameters()}),
        "student": sorted({type(value.data).__name__ for value in module.student.parameters()}),
    }
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
