"""Train under a strategy that starts its processes itself; run by test_launch.py, which forks from a fresh process."""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler

from ctkd_lightning import CurriculumTemperatureCallback, LinearCurriculum
from tests.callbacks import foreign

CURRICULUM = LinearCurriculum(epochs=4, start=0.5)


class Data(LightningDataModule):
    """Both processes' batches of 8 together are the next 16 samples."""

    def train_dataloader(self):
        dataset = foreign.loader().dataset
        sampler = DistributedSampler(dataset, num_replicas=2, rank=self.trainer.global_rank, shuffle=False)
        return DataLoader(dataset, batch_size=8, sampler=sampler)


class Sharded(foreign.Part):
    """FSDP2."""

    def configure_model(self):
        mesh = self.device_mesh["data_parallel"]
        if not hasattr(self.net[0].weight, "full_tensor"):
            for part in (self.net[0], self.net[2], self.net):
                fully_shard(part, mesh=mesh)


def full(parameter):
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def train(folder, strategy, epochs=foreign.EPOCHS, ckpt_path=None, save_to=None):
    module = foreign.Plain() if isinstance(strategy, str) else Sharded()
    student = None if isinstance(strategy, str) else "net"
    added = CurriculumTemperatureCallback(CURRICULUM, foreign.teacher(), student, temperature=foreign.temperature())
    settings = {"strategy": strategy, "devices": 2, "use_distributed_sampler": False, "max_epochs": epochs}
    trainer = foreign.trainer(folder, added, **settings)
    trainer.fit(module, Data(), ckpt_path=ckpt_path)
    if save_to is not None:
        trainer.save_checkpoint(save_to)
    weights = torch.cat([full(p).detach().flatten() for p in module.net.parameters()])
    logged = trainer.callback_metrics["ctkd/temperature"].item()
    return {"weights": weights.tolist(), "temperature": added.temperature.value.item(), "logged": logged}


if __name__ == "__main__":
    folder, strategy = Path(sys.argv[1]), sys.argv[2]
    results = {}
    if strategy == "fsdp2":
        from lightning.pytorch.strategies import ModelParallelStrategy

        def sharding():
            return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)

        results["straight"] = train(folder, sharding())
        train(folder, sharding(), epochs=2, save_to=folder / "two")
        results["resumed"] = train(folder, sharding(), ckpt_path=folder / "two")
    else:
        results["straight"] = train(folder, strategy)
    (folder / "results.json").write_text(json.dumps(results))
