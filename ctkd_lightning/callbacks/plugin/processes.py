"""Keep parameters the same in all processes that a training has, where no wrapper does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import distributed, nn


def broadcast_values(parameters: Sequence[nn.Parameter], strategy: Any) -> None:
    """Take the first process's values.

    Args:
        parameters: the same ones, in the same order, in each process.
        strategy: Lightning's.
    """
    values = strategy.broadcast([parameter.detach().cpu() for parameter in parameters])
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def average_gradients(parameters: Sequence[nn.Parameter], strategy: Any) -> None:
    """Average the gradients over the processes, in one message; one without a gradient counts as zero.

    Where no process has a gradient there is none afterwards. To know this waits for the device, only where this process
    lacks one.

    Args:
        parameters: the same ones, in the same order, in each process.
        strategy: Lightning's.
    """
    missing = [i for i, p in enumerate(parameters) if p.grad is None]
    present = parameters[0].new_ones(len(parameters), dtype=torch.float32)
    for i in missing:
        present[i] = 0.0
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    mean = _mean(torch.cat([*(part.detach().flatten().float() for part in parts), present]), strategy)
    chunks = mean.split([*(p.numel() for p in parameters), len(parameters)])
    for parameter, chunk in zip(parameters, chunks, strict=False):  # the last is of the presences
        parameter.grad = chunk.view_as(parameter).to(parameter.dtype)
    for i in missing:
        if not chunks[-1][i]:
            parameters[i].grad = None


def _mean(values: torch.Tensor, strategy: Any) -> torch.Tensor:
    if distributed.is_available() and distributed.is_initialized():  # Lightning's own waits for a barrier each time
        distributed.all_reduce(values)
        return values.div_(distributed.get_world_size())
    return strategy.reduce(values, reduce_op="mean")
