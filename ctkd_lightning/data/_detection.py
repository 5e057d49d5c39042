"""What the data modules of images with boxes share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ctkd_lightning.data._annotated import AnnotatedImages
from ctkd_lightning.data._checks import flag, whole_number
from ctkd_lightning.data._labelled import LabelledDataModule, Split
from ctkd_lightning.data._loading.detection import FLIPPED, DetectionLoader
from ctkd_lightning.data._loading.sampler import EpochSampler

_MOST_WORKERS = 256


class DetectionDataModule(LabelledDataModule):
    """Images with boxes for training, validation and test, in batches as torchvision's detectors take them.

    A batch is a list of images, each (3, H, W), float32 from 0 to 1, and a list of dictionaries, one an image:
    ``boxes`` (n, 4), float32, (left, top, right, bottom) in pixels, and ``labels`` (n,), int64, from 1 to
    ``num_classes``, since 0 is the background's. Detectors resize and normalise the images themselves.

    Works with any Trainer and module, or alone: ``next(iter(data.train_dataloader()))``.

    Args:
        flip: mirror each training image in half of the epochs.
        num_workers: processes that read images.
        **common: the arguments of ``LabelledDataModule``: batch_size, eval_batch_size, batch_size_is_total, val_size,
            limit_train, limit_eval, seed, drop_last. Images of several objects have no class of their own: parts of a
            set are drawn by chance, the same for everybody.

    Raises:
        UserError: a setting that cannot be.
    """

    default_batch_size = 8

    def __init__(self, *, flip: bool = False, num_workers: int = 0, eval_batch_size: int = 8, **common: Any) -> None:
        super().__init__(eval_batch_size=eval_batch_size, **common)
        self.flip = flag("flip", flip)
        self.num_workers = whole_number("num_workers", num_workers, least=0, most=_MOST_WORKERS)
        self._images: dict[Split, AnnotatedImages] = {}

    # What a data set defines

    @abstractmethod
    def load(self, split: Split) -> AnnotatedImages:
        """Load a split that the data set has.

        Raises:
            UserError: its files are missing or broken.
        """

    @property
    @abstractmethod
    def content(self) -> str:
        """What tells this data set's training images from others of the same name."""

    @property
    @abstractmethod
    def test_content(self) -> str:
        """Likewise of the test images."""

    # What it says of them

    @property
    def num_views(self) -> int:
        """Of each training image."""
        return 1 + FLIPPED if self.flip else 1

    def images(self, split: Split) -> AnnotatedImages:
        """All images of a split with their objects, loaded when first asked for.

        Raises:
            UserError: the files are missing or broken.
        """
        if split not in self._images:
            self._images[split] = self.load(split)
        return self._images[split]

    def fingerprint(self) -> str:
        """A hash over all that decides the training images, but not their order."""
        return self._hash(self.content, self.flip, *self._selection)

    def test_fingerprint(self) -> str:
        """What tells the test images from others."""
        return self._hash(self.test_content, self.limit_eval)

    # What the splits and loaders are made of

    def _targets(self, split: Split) -> Tensor:
        return torch.zeros(len(self.images(split)), dtype=torch.int64)

    def _loader(self, split: Split, sampler: EpochSampler, training: bool) -> DetectionLoader:
        return DetectionLoader(self.images(split), sampler, self.num_workers)
