"""What the processes of a training with DDP must know of each other's batches, so that they train as one process would.

DDP averages the processes' gradients, so that what is trained is the mean of their losses. That is the loss of all
their samples together

- of a mean over samples, if each process's counts as many times as it has samples: :func:`shares`;
- of a relation between samples, if each process computes it of the rows of all: :class:`WholeBatch`;
- of features normalised by statistics of the batch, if these are of all: :func:`total`.

All three are collective: every process of the default group calls them in each training step, in the same order, also
one whose batch is empty. With one process, or without a process group, they do nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ctkd_lightning.errors import UserError


def processes() -> int:
    """How many processes train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def check_processes(expected: int) -> None:
    """Refuse a training of fewer processes than the default group has: they would wait for others that never come.

    Args:
        expected: how many the training has.

    Raises:
        UserError: there are others.
    """
    if processes() > 1 and processes() != expected:
        raise UserError(
            f"the training has {expected} process(es), and {processes()} are in torch.distributed's default group, "
            "whose batches would count together: train with all of them, or leave the group with "
            "torch.distributed.destroy_process_group()"
        )


def shares(*counts: Tensor) -> tuple[Tensor, ...]:
    r"""What to multiply this process's means by, so that their mean over the processes is that over all entries.

    .. math:: \frac{W n_r}{\sum_q n_q}

    of W processes; 0 where there are no entries.

    Args:
        *counts: n of each mean on this process, scalars of float64: how many entries, or their weights' sum.
    """
    own = torch.stack(counts)
    sums = own.clone()
    if processes() > 1:
        dist.all_reduce(sums)
    return (processes() * own / sums.clamp(min=torch.finfo(sums.dtype).tiny)).unbind()


def weighed(loss: Tensor, share: Tensor) -> Tensor:
    """The mean times its share, in its own type."""
    return loss * share.to(loss.dtype)


def samples_of_all(count: int, device: torch.device) -> int | Tensor:
    """The number of samples in all processes' batches."""
    if processes() == 1:
        return count
    samples = torch.full((), float(count), device=device)  # in float32, as most losses are
    dist.all_reduce(samples)
    return samples


def total(x: Tensor) -> Tensor:
    """The sum over the processes, through which gradients flow: each process's loss reaches the others' entries."""
    if processes() == 1:
        return x
    from torch.distributed.nn.functional import all_reduce

    summed: Tensor = all_reduce(x)
    return summed


def mean_of_all(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mean of each over the processes, without gradients; one message for all."""
    if processes() == 1:
        return list(tensors)
    flat = torch.cat([x.detach().flatten() for x in tensors])
    dist.all_reduce(flat)
    flat /= processes()
    parts = flat.split([x.numel() for x in tensors])
    return [part.view(x.shape) for part, x in zip(parts, tensors, strict=True)]


class WholeBatch:
    """The rows of all processes' batches as one batch, in the order in which samplers deal them out.

    Samplers give process r the samples r, r + W, r + 2 W, … of W processes: row j of each process comes before row
    j + 1 of any. The batches may have different numbers of rows, which to know waits for the device.

    Args:
        rows: of this process's batch.
        device: of the tensors to come.
        together: false leaves this process alone.

    Attributes:
        own: (rows,), where this process's rows lie in the whole.
    """

    def __init__(self, rows: int, device: torch.device, *, together: bool = True) -> None:
        self._world = processes() if together else 1
        if self._world == 1:
            self._largest = self._length = rows
            self.own = np.arange(rows)
            return
        counts = torch.empty(self._world, dtype=torch.int64, device=device)
        dist.all_gather_into_tensor(counts, torch.tensor([rows], device=device))
        sizes = counts.tolist()
        self._largest, self._length = max(sizes), sum(sizes)
        process = np.repeat(np.arange(self._world), sizes)
        row = np.concatenate([np.arange(size) for size in sizes])
        order = np.lexsort((process, row))
        self.own = np.flatnonzero(process[order] == dist.get_rank())
        self._rows_of_own = torch.from_numpy(self.own).to(device)
        self._order = torch.from_numpy((process * self._largest + row)[order]).to(device)  # in what is gathered

    def __len__(self) -> int:
        return self._length

    def gather(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The rows (N, …) of all processes' tensors (rows, …), those of one type in one message.

        Gradients flow to this process's rows: as if every process computed the same loss of the whole batch, which is
        what they do. The sum of the processes' gradients is then this process's own times their number, by which DDP
        divides.
        """
        if self._world == 1 or not self._largest:
            return tensors
        found: dict[int, Tensor] = {}
        for dtype in dict.fromkeys(x.dtype for x in tensors):
            group = {place: x for place, x in enumerate(tensors) if x.dtype == dtype}
            wide = _Gather.apply(torch.cat([_as_vectors(x) for x in group.values()], dim=1), self)
            parts = wide.split([math.prod(x.shape[1:]) for x in group.values()], dim=1)
            for (place, x), part in zip(group.items(), parts, strict=True):
                found[place] = part.reshape(-1, *x.shape[1:])
        return tuple(found[place] for place in range(len(tensors)))

    def _gathered(self, x: Tensor) -> Tensor:
        padded = x.new_zeros(self._largest, x.shape[1])
        padded[: len(x)] = x
        found = x.new_empty(self._world * self._largest, x.shape[1])
        dist.all_gather_into_tensor(found, padded)
        return found[self._order]

    def _of_own(self, gradient: Tensor) -> Tensor:
        return self._world * gradient[self._rows_of_own]


def _as_vectors(x: Tensor) -> Tensor:
    return x.reshape(len(x), math.prod(x.shape[1:]))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, batch: WholeBatch) -> Tensor:
        ctx.batch = batch
        return batch._gathered(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.batch._of_own(gradient), None
