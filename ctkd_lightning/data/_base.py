"""What the data modules of images share: their arguments, files, identity and loaders."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ctkd_lightning._files import locked, user_path
from ctkd_lightning.data._augmentation import Augmentation, NoAugmentation, ResizeCrop, create_augmentation
from ctkd_lightning.data._checks import channel_values, flag, whole_number
from ctkd_lightning.data._image_files import Transform
from ctkd_lightning.data._images import Images
from ctkd_lightning.data._labelled import LabelledDataModule, Split
from ctkd_lightning.data._loading.batch import Lookup, ReadsTeacher
from ctkd_lightning.data._loading.loader import ImageLoader
from ctkd_lightning.data._loading.memory import MemoryLoader
from ctkd_lightning.data._loading.preprocess import Preprocess
from ctkd_lightning.data._loading.sampler import EpochSampler, EvaluationSampler
from ctkd_lightning.data._loading.workers import WorkerLoader
from ctkd_lightning.errors import UserError

_MOST_WORKERS = 256
MEMORY_LIMIT = 4 * 2**30
"""Bytes of uint8 pixels up to which ``in_memory="auto"`` keeps a split in memory."""


class ImageDataModule(LabelledDataModule):
    """Labelled images for training, validation and test, in batches of :class:`~ctkd_lightning.data.Batch`.

    ``val_size=0``, where validation is the test set, is the protocol of most distillation papers.

    Works with any Trainer and module, or alone: ``next(iter(data.train_dataloader()))``.

    Args:
        root: folder of the data set's files.
        batch_size: training images a step and process; 64 by default.
        eval_batch_size: validation and test images a step and process.
        batch_size_is_total: whether ``batch_size`` counts the images of a step on all processes together.
        image_size: height and width, pixels.
        mean: one a channel, of images scaled to [0, 1].
        std: one a channel.
        augmentation: of training images, ``"none"``, ``"crop"``, ``"crop_flip"`` or ``"random_resized_crop"``.
        padding: of ``"crop"`` and ``"crop_flip"``, pixels on each side.
        resize: the short side of evaluated images before their centre crop; ``image_size`` by default.
        num_views: of ``"random_resized_crop"``, how many views of each image to draw from; 2³¹ by default.
        val_size: the part of the training images that validates: a fraction (float) or a count (int).
        limit_train: train on this many images only, in the classes' proportions.
        limit_eval: validate and test on this many images only.
        seed: of the order and the augmentation.
        drop_last: leave out an epoch's last batch if it is smaller than the others.
        in_memory: keep the images on the training device; ``"auto"`` does so if they are small enough.
        num_workers: processes that decode images that are not in memory.
        channels_last: give images in the channels-last memory format.
        download: fetch missing files, where the data set has an address.
        cache_dir: folder for decoded images of data sets in files, or ``None`` to decode them in each run.

    Raises:
        UserError: a setting that cannot be.

    Attributes:
        name: the data set's name.
        in_files: whether :meth:`load` gives files, which ``"random_resized_crop"`` and ``resize`` need.
        teacher_cache: what a teacher gives for the training images, asked ahead of each step; none by default.
    """

    in_files: ClassVar[bool] = False
    default_image_size: ClassVar[int] = 32
    default_mean: ClassVar[tuple[float, ...]] = (0.485, 0.456, 0.406)
    default_std: ClassVar[tuple[float, ...]] = (0.229, 0.224, 0.225)
    default_augmentation: ClassVar[str] = "crop_flip"
    default_padding: ClassVar[int] = 4

    def __init__(
        self,
        root: str | Path = "data",
        *,
        batch_size: int | None = None,
        eval_batch_size: int = 256,
        batch_size_is_total: bool = False,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augmentation: str | None = None,
        padding: int | None = None,
        resize: int | None = None,
        num_views: int | None = None,
        val_size: float = 0.1,
        limit_train: int | None = None,
        limit_eval: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
        in_memory: bool | Literal["auto"] = "auto",
        num_workers: int = 4,
        channels_last: bool = False,
        download: bool = True,
        cache_dir: str | Path | None = "~/.cache/ctkd_lightning",
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            batch_size_is_total=batch_size_is_total,
            val_size=val_size,
            limit_train=limit_train,
            limit_eval=limit_eval,
            seed=seed,
            drop_last=drop_last,
        )
        self.root = user_path(root)
        self.image_size = whole_number("image_size", _given(image_size, self.default_image_size), least=1)
        self.mean = channel_values("mean", _given(mean, self.default_mean))
        self.std = channel_values("std", _given(std, self.default_std), above=0)
        self.resize = whole_number("resize", _given(resize, self.image_size), least=1)
        if self.resize < self.image_size:
            raise UserError(f"resize={resize} is below image_size={self.image_size}: the crop would need padding")
        self.augmentation: Augmentation = create_augmentation(
            _given(augmentation, self.default_augmentation),
            image_size=self.image_size,
            padding=_given(padding, self.default_padding),
            resize=self.resize,
            num_views=num_views,
        )
        self.in_memory = flag("in_memory", in_memory, "auto")
        self.num_workers = whole_number("num_workers", num_workers, least=0, most=_MOST_WORKERS)
        self.channels_last = flag("channels_last", channels_last)
        self.download = flag("download", download)
        self.cache_dir = None if cache_dir is None else user_path(cache_dir)
        self.teacher_cache: ReadsTeacher | None = None
        self._images: dict[Split, Images] = {}
        self._check_files_for_settings()

    def _check_files_for_settings(self) -> None:
        """Refuse what only images in files can have, and those only until they are kept at one size."""
        if self.augmentation.needs_files and (not self.in_files or self.in_memory is True):
            kept = "in_memory=true keeps" if self.in_files else f"{self.name} has"
            raise UserError(
                f"augmentation=random_resized_crop needs the undecoded images, {kept} them at one size: take "
                f"augmentation=crop_flip, crop or none{', or in_memory=auto' if self.in_files else ''}"
            )
        if self.resize != self.image_size and not self.in_files:
            raise UserError(
                f"resize={self.resize} is for images in files, {self.name} has them at one size: set image_size alone"
            )

    # What a data set defines

    @abstractmethod
    def load(self, split: Split) -> Images:
        """Load a split that the data set has.

        Raises:
            UserError: its files are missing or broken.
        """

    def has_files(self) -> bool:
        """Whether the files are there that :meth:`fetch` downloads; a data set without an address has all it needs."""
        return True

    def fetch(self) -> None:
        """Download the files into :attr:`root`; no other process does so at the same time.

        Raises:
            UserError: they cannot be downloaded.
        """
        raise NotImplementedError

    @cached_property
    def content(self) -> str:
        """What tells this data set's training images from others of the same name.

        Of files a hash of their names, sizes and times of change, of arrays one of all pixels and targets; a data set
        that knows it more cheaply says so. What a teacher gave for other content is never taken for this one's.
        """
        return self.split_images("train").digest()

    @property
    def num_views(self) -> int:
        """How many views of each training image the augmentation has."""
        return self.augmentation.num_views

    @property
    def example_image(self) -> Tensor:
        """(2, 3, H, W): images of the right shape that show nothing, for whoever wants to see a network's outputs."""
        return torch.zeros(2, 3, self.image_size, self.image_size)

    def pictures(self, split: Split, indices: Tensor) -> Tensor:
        """Images to look at, (n, 3, H, W), uint8, as the networks see them but neither normalised nor augmented.

        Args:
            split: that they are of.
            indices: (n,), their positions in the whole split.
        """
        order = indices.argsort()
        sampler = EvaluationSampler(indices[order], self.eval_batch_size)
        shown = torch.cat([batch.image.cpu() for batch in self._loader(split, sampler, training=False)])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return ((shown * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)[order.argsort()].contiguous()

    def fingerprint(self) -> str:
        """A hash over all that decides the training images, but not their order."""
        return self._hash(*self._views, *self._selection)

    def view_fingerprint(self) -> str:
        """A hash over all that decides what an image of the full training set looks like, by ``Batch.index`` and view.

        Those that train may be any part of the set.
        """
        return self._hash(*self._views)

    @property
    def _views(self) -> tuple[object, ...]:
        return self.content, self.image_size, self.resize, self.mean, self.std, self.augmentation

    # Loading

    def prepare_data(self) -> None:
        """Download the files, if ``download`` is set and they are missing.

        Lightning calls this on one process. Where several call it, one downloads, and the others wait for it.
        """
        if self.download and not self.has_files():
            with locked(self.root / self.name):
                if not self.has_files():
                    self.fetch()

    def transform(self, split: Split) -> Transform:
        """What brings a decoded image of a split to ``image_size``."""
        resize = ResizeCrop(self.image_size, self.resize)
        return self.augmentation.on_file(resize) if split == "train" else resize

    def split_images(self, split: Split) -> Images:
        """All images of a split, loaded when first asked for.

        Raises:
            UserError: the files are missing or broken.
        """
        if split not in self._images:
            images = self.load(split)
            if self._keeps_in_memory(split, images):
                images = images.in_memory(self.image_size, self.cache_dir, self.num_workers)
            self._images[split] = images
        return self._images[split]

    def _keeps_in_memory(self, split: Split, images: Images) -> bool:
        if split == "train" and self.augmentation.needs_files:
            return False
        fits = len(images) * 3 * self.image_size**2 <= MEMORY_LIMIT
        return fits if self.in_memory == "auto" else self.in_memory

    def _targets(self, split: Split) -> Tensor:
        return self.split_images(split).targets.cpu()

    def _loader(self, split: Split, sampler: EpochSampler, training: bool) -> ImageLoader:
        images = self.split_images(split)
        augmentation = self.augmentation if training else NoAugmentation()
        preprocess = Preprocess(augmentation.on_batch, self.mean, self.std, self._device(), self.channels_last)
        store = self.teacher_cache if training else None
        look_up = None if store is None else partial(Lookup, store, self.view_fingerprint())
        if self._keeps_in_memory(split, images):
            array = images.in_memory(self.image_size, self.cache_dir, self.num_workers)
            return MemoryLoader(array, sampler, preprocess, look_up)
        return WorkerLoader(images, sampler, preprocess, self.num_workers, look_up)


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value
