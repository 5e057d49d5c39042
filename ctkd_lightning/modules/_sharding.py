"""FSDP2, by Lightning's ``ModelParallelStrategy``: networks in shards, everything else whole on each process."""

from __future__ import annotations

from collections.abc import Iterable

import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor


def is_sharded(module: LightningModule) -> bool:
    """Whether the module's Trainer shards."""
    trainer = module._trainer
    return trainer is not None and isinstance(trainer.strategy, ModelParallelStrategy)


def shard(module: LightningModule, networks: Iterable[object]) -> None:
    """Shard networks over the processes; one that is sharded already, or is no module, stays as it is."""
    mesh = module.device_mesh
    if mesh is None:
        return
    for network in networks:
        if isinstance(network, nn.Module) and not isinstance(network, FSDPModule):
            frozen = not any(parameter.requires_grad for parameter in network.parameters())
            # one without a backward pass, in which FSDP2 lets go of the whole, must do so after the forward pass
            fully_shard(network, mesh=mesh["data_parallel"], reshard_after_forward=True if frozen else None)


def average_whole(module: nn.Module) -> None:
    """Average the gradients of what is not sharded, as of temperatures: FSDP2 leaves them to each process.

    A scalar, as a temperature's, cannot be sharded. Gradients that are averaged already stay what they are.
    """
    for parameter in module.parameters():
        if parameter.grad is not None and not isinstance(parameter, DTensor):
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
