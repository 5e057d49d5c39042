"""Train a detector under DDP; run by test_ddp.py in two processes, which each write down what they ended with."""

import json
import os
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, DistributedSampler

from ctkd_lightning import ConstantCurriculum, CurriculumTemperatureCallback, GlobalTemperature
from ctkd_lightning.detection import BoxKD
from ctkd_lightning.methods import KD
from tests.detection.small import Detecting, collated, made, scenes
from tests.quiet import quiet_trainer

COUNT, EPOCHS = 8, 3


def callback(kind):
    temperature = GlobalTemperature(tau_init=0.5, tau_range=4.0, initial_value=0.0)
    method = {"kd": KD(weight=1.0), "boxes": BoxKD(weight=0.5)}
    return CurriculumTemperatureCallback(
        ConstantCurriculum(1.0),
        made(kind, 2),
        "model",
        method=method,
        ce_weight=1.0,
        temperature=temperature,
        learning_rate=None if kind == "ssd" else 0.5,
    )


def samples():
    return scenes(COUNT, empty=(2,))


def of_this_process():
    sampler = DistributedSampler(samples(), num_replicas=2, rank=int(os.environ["LOCAL_RANK"]), shuffle=False)
    return DataLoader(samples(), batch_size=1, sampler=sampler, collate_fn=collated)


def run(kind, folder, batches, rate=0.01, **settings):
    """The weights, τ and losses after some epochs."""
    added, task = callback(kind), Detecting(made(kind, 1), rate)
    quiet_trainer(folder, callbacks=[added], max_epochs=EPOCHS, use_distributed_sampler=False, **settings).fit(
        task, batches
    )
    return {
        "weights": torch.cat([p.detach().flatten() for p in task.parameters()]).tolist(),
        "temperature": added.temperature(None, None).item(),
        "losses": {name: value.item() for name, value in task.trainer.callback_metrics.items()},
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    rates = {"retinanet": 0.01, "rcnn": 0.01, "ssd": 0.0}
    found = {
        kind: run(kind, folder, of_this_process(), rate, devices=2, strategy="ddp") for kind, rate in rates.items()
    }
    (folder / f"{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(found))
