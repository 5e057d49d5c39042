"""Train fusions in two processes; run by test_fusion_ddp.py, each writes down what it ended with."""

import json
import os
import sys
from pathlib import Path

import torch

from ctkd_lightning import CurriculumTemperatureCallback
from tests.modules import fusing


def results(folder, **settings):
    found = {}
    for kind in ("global", "instance"):
        callback = CurriculumTemperatureCallback(fusing.CURRICULUM)
        module = fusing.module(kind, corruption=fusing.corruption())
        trainer = fusing.trainer(folder, callback, use_distributed_sampler=False, **settings)
        world, rank = trainer.world_size, int(os.environ.get("LOCAL_RANK", 0))
        data = fusing.loader(batch_size=8 if world == 2 else 16, world_size=world, rank=rank)
        trainer.fit(module, data)
        weights = [p.detach().flatten() for p in module.network.parameters()]
        logged = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith(("ctkd", "train"))}
        found[kind] = {"weights": torch.cat(weights).tolist(), "logged": logged}
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = results(folder, strategy="ddp", devices=2)
    (folder / f"{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(found))
