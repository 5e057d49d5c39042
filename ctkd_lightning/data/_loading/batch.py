"""What a data module hands to a training or evaluation step."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Batch(NamedTuple):
    """One batch of labelled images.

    Attributes:
        image: (B, 3, H, W), float, normalised.
        target: (B,), int64 class indices.
        index: (B,), int64, the samples' positions in the full training (or evaluation) set.
        view: (B,), int64, which augmentation of the sample this is; -1 for the image as it is.
    """

    image: Tensor
    target: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a batch
    view: Tensor


class ReadsTeacher(Protocol):
    """A cache of the teacher's outputs.

    Attributes:
        key: two caches with the same key hold the same values.
    """

    key: str

    def read(self, index: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Values (B, K) and which of them are known (B,), for samples and views on the CPU."""
        ...


class Lookup:
    """What a cache knows of a batch.

    Neither tuple nor dataclass, so that a Trainer that moves a batch to the device, or into another type, leaves it as
    it is.

    Args:
        store: the cache.
        data: the :meth:`~ctkd_lightning.data.ImageDataModule.view_fingerprint` of the images; ``None`` where nobody
            says.
        index: (B,), int64 on the CPU, the samples' positions in the full training set.
        view: (B,), int64 on the CPU.
        device: of the batch.

    Attributes:
        key: the cache's.
        values: (B, K), on the device; where they are not known, they mean nothing.
        known: (B,), bool on the CPU.
    """

    def __init__(
        self, store: ReadsTeacher, data: str | None, index: Tensor, view: Tensor, device: torch.device
    ) -> None:
        self.key, self.data, self.index, self.view = store.key, data, index, view
        values, self.known = store.read(index, view)
        self.values = without_wait(values, device)


class TeacherBatch(NamedTuple):
    """A :class:`Batch` with what a cache knows of the teacher's outputs for it."""

    image: Tensor
    target: Tensor
    index: Tensor  # type: ignore[assignment]
    view: Tensor
    teacher: Lookup


def without_wait(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to a device, without a wait of the host for what the device is doing."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
