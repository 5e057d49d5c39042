"""The ordinary path: images decoded one by one, in worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.filesize import decimal
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from ctkd_lightning.data._images import Images
from ctkd_lightning.data._loading.batch import Batch, TeacherBatch
from ctkd_lightning.data._loading.loader import AnyBatch, ImageLoader, LookUp
from ctkd_lightning.data._loading.preprocess import Preprocess
from ctkd_lightning.data._loading.sampler import EpochSampler
from ctkd_lightning.errors import UserError

_SHARED_MEMORY = "/dev/shm"

_ADVICE = "make it larger (docker run --shm-size=8g), take smaller batches, or set data.num_workers=0"
_PREFETCHED = 2  # batches a worker, as torch has it


class StopsWorkers:
    """A loader around a torch ``DataLoader`` whose persistent workers Lightning stops at the end of a run.

    It finds them under the ``DataLoader``'s own name; those that are left to the garbage collector take five seconds
    each.
    """

    _loader: DataLoader[Any]

    @property
    def _iterator(self) -> _BaseDataLoaderIter | None:
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: None) -> None:
        self._loader._iterator = iterator


class WorkerLoader(StopsWorkers, ImageLoader):
    """A torch ``DataLoader`` whose order, augmentation and position are exact across restarts.

    The workers decode; augmentation of images of one size and normalisation happen for the whole batch on the device.

    Args:
        images: what to load.
        sampler: the order.
        preprocess: augmentation and normalisation, on the device.
        num_workers: worker processes; 0 decodes in this one.
        look_up: as in :class:`~ctkd_lightning.data._loading.loader.ImageLoader`.
    """

    def __init__(
        self,
        images: Images,
        sampler: EpochSampler,
        preprocess: Preprocess,
        num_workers: int = 0,
        look_up: LookUp | None = None,
    ) -> None:
        super().__init__(sampler, look_up)
        self.preprocess = preprocess
        self._loader = byte_loader(images, sampler, num_workers, pin_memory=preprocess.device.type == "cuda")

    def _batches(self) -> Iterator[Batch | TeacherBatch]:
        device = self.preprocess.device
        with one_line_errors():
            for loaded in self._loader:
                target, index, view = (x.to(device, non_blocking=True) for x in loaded[1:])
                batch = Batch(self.preprocess(loaded.image, view), target, index, view)
                yield self._with_teacher(batch, loaded.index, loaded.view)


def byte_loader(images: Images, sampler: EpochSampler, num_workers: int, pin_memory: bool = False) -> DataLoader[Batch]:
    """A ``DataLoader`` of batches whose images are uint8, (B, 3, H, W).

    Raises:
        UserError: the shared memory, by which workers hand over batches, is too small for them.
    """
    if num_workers > 0:
        _check_room(images, sampler, num_workers)
    return batch_loader(_Batches(images), sampler, num_workers, pin_memory)


def batch_loader(
    batches: Dataset[AnyBatch], sampler: EpochSampler, num_workers: int, pin_memory: bool = False
) -> DataLoader[AnyBatch]:
    """A ``DataLoader`` of a data set whose entries are whole batches, which the sampler names."""
    return DataLoader(
        batches,
        batch_size=None,  # the sampler names whole batches
        sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # or each pass would draw from the global one, and change what follows
    )


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Give a worker's :class:`UserError` its message back: it arrives with the worker's traceback instead.

    Raises:
        UserError: also where a worker was killed since the shared memory was full.
    """
    try:
        yield
    except UserError as error:
        raise UserError(str(error).strip().splitlines()[-1].split("UserError: ")[-1]) from None
    except RuntimeError as error:
        if "killed by signal: Bus error" not in str(error):
            raise
        raise UserError(f"a worker process of the data was killed, {_SHARED_MEMORY} being full: {_ADVICE}") from error


def _check_room(images: Images, sampler: EpochSampler, num_workers: int) -> None:
    """Refuse a shared memory that the batches do not fit into: without room the workers would wait for ever."""
    try:
        found = os.statvfs(_SHARED_MEMORY)
    except (OSError, AttributeError):  # none there, or Windows
        return
    free = found.f_bavail * found.f_frsize
    at_once = sorted(sampler.sizes)[-num_workers * _PREFETCHED :]
    needed = sum(at_once) * images.pixels_of(0, 0).nbytes
    if needed > free:
        raise UserError(
            f"{num_workers} worker processes of the data need {decimal(needed)} of {_SHARED_MEMORY}, and "
            f"{decimal(free)} are free: {_ADVICE}"
        )


class _Batches(Dataset[Batch]):
    """Images as batches, each by its list of (index, view) pairs."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, pairs: list[tuple[int, int]]) -> Batch:
        index, view = torch.tensor(pairs).T
        pixels = torch.stack([self.images.pixels_of(*pair) for pair in pairs])
        return Batch(pixels, self.images.targets[index], index, view)
