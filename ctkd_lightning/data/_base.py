"""What the data modules share: arguments, splits, loaders."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor

from ctkd_lightning._files import locked, user_path
from ctkd_lightning.data._augmentation import Augmentation, NoAugmentation, ResizeCrop, create_augmentation
from ctkd_lightning.data._checks import channel_values, flag, part_of_training, whole_number
from ctkd_lightning.data._image_files import Transform
from ctkd_lightning.data._images import Images
from ctkd_lightning.data._loading.batch import Lookup, ReadsTeacher
from ctkd_lightning.data._loading.loader import Loader
from ctkd_lightning.data._loading.memory import MemoryLoader
from ctkd_lightning.data._loading.preprocess import Preprocess
from ctkd_lightning.data._loading.sampler import EpochSampler, EvaluationSampler
from ctkd_lightning.data._loading.workers import WorkerLoader
from ctkd_lightning.data._split import complement, stratified_subset
from ctkd_lightning.errors import UserError

Split = Literal["train", "val", "test"]
MEMORY_LIMIT = 4 * 2**30
"""Bytes of uint8 pixels up to which ``in_memory="auto"`` keeps a split in memory."""


class ImageDataModule(LightningDataModule, ABC):
    """Labelled images for training, validation and test, in batches of :class:`~ctkd_lightning.data.Batch`.

    The test images choose nothing: without validation images of its own, a data set gives up a fixed, stratified part
    of its training images, the same for every ``seed``. ``val_size=0`` is the protocol of most distillation papers:
    all images train, validation is the test set, and :attr:`validates_on_test` says so.

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

    name: str
    in_files: ClassVar[bool] = False
    default_batch_size: ClassVar[int] = 64
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
        super().__init__()
        self.root = user_path(root)
        self.batch_size = whole_number("batch_size", _given(batch_size, self.default_batch_size), least=1)
        self.eval_batch_size = whole_number("eval_batch_size", eval_batch_size, least=1)
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
        self.val_size = part_of_training("val_size", val_size)
        self.limit_train = None if limit_train is None else whole_number("limit_train", limit_train, least=1)
        self.limit_eval = None if limit_eval is None else whole_number("limit_eval", limit_eval, least=1)
        self.seed = whole_number("seed", seed, least=0)
        self.drop_last = flag("drop_last", drop_last)
        self.in_memory = flag("in_memory", in_memory, "auto")
        self.num_workers = whole_number("num_workers", num_workers, least=0)
        self.channels_last = flag("channels_last", channels_last)
        self.download = flag("download", download)
        self.cache_dir = None if cache_dir is None else user_path(cache_dir)
        self.teacher_cache: ReadsTeacher | None = None
        self.batch_size_is_total = flag("batch_size_is_total", batch_size_is_total)
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

    @property
    def has_validation(self) -> bool:
        """Whether the data set has validation images of its own."""
        return False

    @property
    def num_classes(self) -> int:
        """How many classes there are; known before :meth:`setup`."""
        return len(self.class_names)

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """The classes' names in the order of their indices."""

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

    # Splits

    @property
    def validates_on_test(self) -> bool:
        """Whether validation and test are the same images, so that the best of many epochs is the best on test."""
        return self.val_size == 0 and not self.has_validation

    @property
    def num_views(self) -> int:
        """How many views of each training image the augmentation has."""
        return self.augmentation.num_views

    @property
    def example_image(self) -> Tensor:
        """(2, 3, H, W): images of the right shape that show nothing, for whoever wants to see a network's outputs."""
        return torch.zeros(2, 3, self.image_size, self.image_size)

    @property
    def train_targets(self) -> Tensor:
        """(N,), int64, on the CPU: the classes of the full training set, by ``Batch.index``."""
        return self.split_images("train").targets.cpu()

    @cached_property
    def train_indices(self) -> Tensor:
        """(n,), int64: the positions of those images of the full training set that train."""
        targets = self.train_targets
        held_out = self._held_out(targets)
        return self._limited(complement(held_out, len(targets)), targets, self.limit_train)

    @cached_property
    def val_indices(self) -> Tensor:
        """(n,), int64: the positions of the images that validate, in the set that they come from."""
        if self.has_validation or self.validates_on_test:
            targets = self.split_images(self._val_split).targets.cpu()
            return self._limited(torch.arange(len(targets)), targets, self.limit_eval)
        targets = self.train_targets
        return self._limited(self._held_out(targets), targets, self.limit_eval)

    @cached_property
    def test_indices(self) -> Tensor:
        """(n,), int64: the positions of the images that test, in the full test set."""
        targets = self.split_images("test").targets.cpu()
        return self._limited(torch.arange(len(targets)), targets, self.limit_eval)

    @property
    def _val_split(self) -> Split:
        if self.has_validation:
            return "val"
        return "test" if self.validates_on_test else "train"

    def _held_out(self, targets: Tensor) -> Tensor:
        """The training images that validate."""
        if self.has_validation or self.val_size == 0:
            return torch.empty(0, dtype=torch.int64)
        fraction = isinstance(self.val_size, float)
        count = max(1, round(self.val_size * len(targets))) if fraction else int(self.val_size)
        if count >= len(targets):
            raise UserError(
                f"val_size={self.val_size} of {len(targets)} training images leaves none to train: lower it"
            )
        return stratified_subset(targets, count)

    @staticmethod
    def _limited(indices: Tensor, targets: Tensor, limit: int | None) -> Tensor:
        if limit is None or limit >= len(indices):
            return indices
        return indices[stratified_subset(targets[indices], limit)]

    def fingerprint(self) -> str:
        """A hash over all that decides the training images, but not their order."""
        return self._hash(self.has_validation or self.val_size or None, self.limit_train)

    def view_fingerprint(self) -> str:
        """A hash over all that decides what an image of the full training set looks like, by ``Batch.index`` and view.

        Those that train may be any part of the set.
        """
        return self._hash()

    def _hash(self, *selection: object) -> str:
        decides = (
            self.name, self.content, self.image_size, self.resize, self.mean, self.std, self.augmentation, *selection
        )  # fmt: skip
        return hashlib.sha256(repr(decides).encode()).hexdigest()[:32]

    # Lightning's hooks

    def prepare_data(self) -> None:
        """Download the files, if ``download`` is set and they are missing.

        Lightning calls this on one process. Where several call it, one downloads, and the others wait for it.
        """
        if self.download and not self.has_files():
            with locked(self.root / self.name):
                if not self.has_files():
                    self.fetch()

    def setup(self, stage: str | None = None) -> None:
        """Load the images of a stage, ``"fit"``, ``"validate"``, ``"test"``, ``"predict"`` or all of them."""
        needed: dict[str | None, set[Split]] = {
            "fit": {"train", self._val_split},
            "validate": {self._val_split},
            "test": {"test"},
            "predict": {"test"},
        }
        for split in sorted(needed.get(stage, {"train", self._val_split, "test"})):
            self.split_images(split)

    def train_dataloader(self) -> Loader:
        """Training batches, in an order that (seed, epoch) decides."""
        overfits = self.trainer is not None and getattr(self.trainer, "overfit_batches", 0) > 0
        rank, world_size = self._process()
        sampler = EpochSampler(
            self.train_indices,
            self._batch_of_a_process(world_size),
            num_views=self.num_views,
            seed=self.seed,
            shuffle=not overfits,
            drop_last=self.drop_last,
            rank=rank,
            world_size=world_size,
        )
        return self._loader("train", sampler, augment=True)

    def val_dataloader(self) -> Loader:
        """Validation batches."""
        return self._loader(self._val_split, self._evaluation(self.val_indices), augment=False)

    def test_dataloader(self) -> Loader:
        """Test batches."""
        return self._loader("test", self._evaluation(self.test_indices), augment=False)

    def predict_dataloader(self) -> Loader:
        """The test batches."""
        return self.test_dataloader()

    # Loading

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

    def _evaluation(self, indices: Tensor) -> EvaluationSampler:
        rank, world_size = self._process()
        return EvaluationSampler(indices, self.eval_batch_size, rank=rank, world_size=world_size)

    def _loader(self, split: Split, sampler: EpochSampler, augment: bool) -> Loader:
        images = self.split_images(split)
        augmentation = self.augmentation if augment else NoAugmentation()
        preprocess = Preprocess(augmentation.on_batch, self.mean, self.std, self._device(), self.channels_last)
        store = self.teacher_cache if augment else None
        look_up = None if store is None else partial(Lookup, store, self.view_fingerprint())
        if self._keeps_in_memory(split, images):
            array = images.in_memory(self.image_size, self.cache_dir, self.num_workers)
            return MemoryLoader(array, sampler, preprocess, look_up)
        return WorkerLoader(images, sampler, preprocess, self.num_workers, look_up)

    # The Trainer's processes and device

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _batch_of_a_process(self, world_size: int) -> int:
        if not self.batch_size_is_total:
            return self.batch_size
        if self.batch_size % world_size:
            raise UserError(
                f"batch_size={self.batch_size} is the total of all processes, and {world_size} do not share it evenly: "
                f"take a multiple of {world_size}, another number of devices, or batch_size_is_total=false"
            )
        return self.batch_size // world_size

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value
