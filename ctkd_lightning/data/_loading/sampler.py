"""Which samples make which batch, as a function of (seed, epoch) alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler

from ctkd_lightning.errors import UserError


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """The batches of a training epoch, as lists of (index, view) pairs.

    Every epoch is a new permutation of the samples, and gives each sample a view number drawn uniformly. Both are a
    function of (seed, epoch): no random state has to be saved, and worker processes need not know the epoch. The
    processes of a distributed run draw the same epoch and take disjoint, equal shares of it; up to ``world_size - 1``
    samples, others in each epoch, stay out.

    A last batch of one sample would give batch normalisation nothing to normalise with: that sample joins the batch
    before it.

    The sampler knows how far its consumer has come (:meth:`consumed`), so that :meth:`state_dict` is exact in the
    middle of an epoch, however far a loader has prefetched.

    Args:
        indices: (N,), int64, the samples to draw from.
        batch_size: samples a batch and process.
        num_views: how many views the augmentation has.
        seed: of the order and the views.
        shuffle: false keeps the samples in the order of ``indices``, in every epoch.
        drop_last: leave out the last batch of an epoch where it is smaller than the others.
        rank: this process's number.
        world_size: the number of processes.

    Raises:
        UserError: too few samples for one batch on each process.

    Example:
        >>> sampler = EpochSampler(torch.arange(5), batch_size=2, num_views=162)
        >>> len(sampler), [len(batch) for batch in sampler]
        (2, [2, 3])
    """

    def __init__(
        self,
        indices: Tensor,
        batch_size: int,
        *,
        num_views: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.indices = indices
        self.batch_size = batch_size
        self.num_views = num_views
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start = 0
        self._consumed = 0
        self.sizes = self._batch_sizes()
        if not self.sizes:
            raise UserError(
                f"{len(indices)} samples do not make one batch for each of {world_size} processes "
                f"(batch_size={batch_size}, drop_last={drop_last}): use fewer processes, smaller batches or more data"
            )

    def _batch_sizes(self) -> list[int]:
        full, rest = divmod(len(self.indices) // self.world_size, self.batch_size)
        sizes = [self.batch_size] * full
        if rest == 1 and full and self.batch_size > 1 and not self.drop_last:
            sizes[-1] += 1
        elif rest and not self.drop_last:
            sizes.append(rest)
        return sizes

    def order(self) -> tuple[Tensor, Tensor]:
        """The epoch's samples of this process in order, and their views: both (n,), int64.

        Raises:
            UserError: the run has more processes than the sampler was made for: each would train on the same samples.
        """
        self._check_processes()
        count = len(self.indices)
        # numpy mixes seed and epoch well; torch's CPU generator reads 32 bits of one number
        rng = np.random.default_rng((self.seed, self.epoch))
        views = torch.from_numpy(rng.integers(self.num_views, size=count))
        order = torch.from_numpy(rng.permutation(count)) if self.shuffle else torch.arange(count)
        share = order[self.rank : count - count % self.world_size : self.world_size]
        return self.indices[share], views[share]

    def _check_processes(self) -> None:
        running = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if self.world_size < running:
            raise UserError(
                f"these batches were made for {self.world_size} process(es), {running} are running: "
                "give the Trainer the data module itself, trainer.fit(model, datamodule=data), not its loaders"
            )

    def __len__(self) -> int:
        """The number of batches in a whole epoch, the same on every process."""
        return len(self.sizes)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        index, view = self.order()
        for batch in self.slices():
            yield list(zip(index[batch].tolist(), view[batch].tolist(), strict=True))

    def slices(self) -> list[slice]:
        """Where in :meth:`order` the batches lie, from :attr:`start` to the end of the epoch."""
        stops = np.cumsum(self.sizes).tolist()
        return [slice(stop - size, stop) for size, stop in zip(self.sizes, stops, strict=True)][self.start :]

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of another epoch; the same epoch changes nothing."""
        if epoch != self.epoch:
            self.epoch, self.start, self._consumed = epoch, 0, 0

    def consumed(self, batches: int) -> None:
        """Note that ``batches`` batches of the epoch have been handed out; after the last, go to the next epoch."""
        self._consumed = batches
        if batches == len(self):
            self.set_epoch(self.epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch, and what that position depends on."""
        return {"epoch": self.epoch, "batch": self._consumed, "batches": len(self), "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position.

        Raises:
            UserError: a position within an epoch that is cut into other batches here.
        """
        if state["batch"] and (state["batches"], state["seed"]) != (len(self), self.seed):
            raise UserError(
                f"the checkpoint stopped within an epoch of {state['batches']} batches with seed {state['seed']}, here "
                f"it has {len(self)} with seed {self.seed}: resume with the same data, batch size, number of processes "
                "and seed, or from a checkpoint of an epoch's end"
            )
        self.epoch = state["epoch"]
        self.start = self._consumed = state["batch"]


class EvaluationSampler(EpochSampler):
    """The batches of an evaluation: each sample exactly once, in order, without augmentation (view -1).

    The batches differ by at most one sample in size, and each process has the same number of them: a process that
    waits for the others meets them.

    Example:
        >>> [len(batch) for batch in EvaluationSampler(torch.arange(5), batch_size=4)]
        [3, 2]
    """

    def __init__(self, indices: Tensor, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(indices, batch_size, shuffle=False, rank=rank, world_size=world_size)

    def _batch_sizes(self) -> list[int]:
        samples, processes = len(self.indices), self.world_size
        largest_share = math.ceil(samples / processes)
        batches = min(math.ceil(largest_share / self.batch_size), samples // processes)  # no process without a sample
        share = len(range(self.rank, samples, processes))
        return [share // batches + (number < share % batches) for number in range(batches)]

    def order(self) -> tuple[Tensor, Tensor]:
        """The samples of this process in order, and -1 for each."""
        index = self.indices[self.rank :: self.world_size]
        return index, torch.full_like(index, -1)
