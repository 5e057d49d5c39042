"""The validation batches from which temperatures learn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils._pytree import tree_leaves

from ctkd_lightning.data._labelled import LabelledDataModule
from ctkd_lightning.data._loading.loader import Loader
from ctkd_lightning.errors import UserError


class HeldOutBatches:
    """The batches of the Trainer's validation data, pass after pass without end.

    Which one a step gets is a function of the step's number, so that a training that goes on needs no position. Of this
    package's data modules they are in an order of their own (``held_out_dataloader``), else as validation has them; of
    several validation loaders they are the first one's.

    Args:
        trainer: with its loaders made.

    Raises:
        UserError: there are no validation data, they do not say how many batches they have, or they are the test's.
    """

    def __init__(self, trainer: Trainer) -> None:
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, LabelledDataModule):
            self._loader: Any = data.held_out_dataloader()
        else:
            loaders = [loader for loader in tree_leaves(trainer.val_dataloaders) if loader is not None]
            if not loaders:
                raise UserError(
                    "objective='held_out' learns from validation data, and in the first epoch there are none: give the "
                    "Trainer some (limit_val_batches above 0, check_val_every_n_epoch=1), or take another objective"
                )
            self._loader = loaders[0]
        self._count = _length(self._loader)
        self._batches: Iterator[Any] = iter(())
        self._next = -1

    def at(self, step: int) -> Any:
        """The batch of a step, where the loader gives it.

        Args:
            step: its number since the start of the training.
        """
        with torch.random.fork_rng(devices=[]):  # loaders draw a seed for their workers
            batch = next(self._batches, None) if step == self._next else None
            if batch is None:
                self._batches = self._from(step)
                batch = next(self._batches)
        self._next = step + 1
        return batch

    def let_go(self) -> None:
        """Somebody else may read the loader, whose workers may serve one reader at a time."""
        self._next = -1

    def _from(self, step: int) -> Iterator[Any]:
        done, position = divmod(step, self._count)
        if isinstance(self._loader, Loader):
            sampler = self._loader.sampler
            sampler.load_state_dict({**sampler.state_dict(), "epoch": done, "batch": position})
            return iter(self._loader)
        return islice(iter(self._loader), position, None)


def _length(loader: Any) -> int:
    try:
        count = len(loader)
    except TypeError:
        count = 0
    if not count:
        raise UserError(
            f"objective='held_out' must know how many validation batches there are, and the {type(loader).__name__} "
            "does not say it or has none: give a loader of a length"
        )
    return count


def number_of_step(trainer: Trainer, batch_idx: int) -> int:
    """How many training batches came before this one, whatever was stopped and gone on in between."""
    epoch = trainer.num_training_batches
    return batch_idx if math.isinf(epoch) else trainer.current_epoch * int(epoch) + batch_idx
