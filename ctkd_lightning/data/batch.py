"""What a data module hands to a training or evaluation step."""

from __future__ import annotations

from typing import NamedTuple

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


class TeacherBatch(NamedTuple):
    """A :class:`Batch` with what the teacher gives for it, from a cache that knows all of it.

    Attributes:
        teacher: (B, K), float16, as :class:`~ctkd_lightning.teacher_cache.TeacherCache` keeps it.
    """

    image: Tensor
    target: Tensor
    index: Tensor  # type: ignore[assignment]
    view: Tensor
    teacher: Tensor
