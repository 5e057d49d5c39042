"""What all data modules share: which samples train, validate and test, and in which order."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor

from ctkd_lightning.data._checks import flag, part_of_training, whole_number
from ctkd_lightning.data._loading.loader import Loader
from ctkd_lightning.data._loading.sampler import EpochSampler, EvaluationSampler
from ctkd_lightning.data._split import complement, stratified_subset
from ctkd_lightning.errors import UserError

Split = Literal["train", "val", "test"]


class LabelledDataModule(LightningDataModule, ABC):
    """Labelled samples for training, validation and test.

    The test samples choose nothing: without validation samples of its own, a data set gives up a fixed, stratified part
    of its training samples, the same for every ``seed``. With ``val_size=0`` all of them train, validation is the test
    set, and :attr:`validates_on_test` says so.

    Args:
        batch_size: training samples a step and process; the data set's own by default.
        eval_batch_size: validation and test samples a step and process.
        batch_size_is_total: whether ``batch_size`` counts the samples of a step on all processes together.
        val_size: the part of the training samples that validates: a fraction (float) or a count (int).
        limit_train: train on this many samples only, in the classes' proportions.
        limit_eval: validate and test on this many samples only.
        seed: of the order.
        drop_last: leave out an epoch's last batch if it is smaller than the others.

    Raises:
        UserError: a setting that cannot be.

    Attributes:
        name: the data set's name.
    """

    name: str
    default_batch_size: ClassVar[int] = 64

    def __init__(
        self,
        *,
        batch_size: int | None = None,
        eval_batch_size: int = 256,
        batch_size_is_total: bool = False,
        val_size: float = 0.1,
        limit_train: int | None = None,
        limit_eval: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        batch_size = self.default_batch_size if batch_size is None else batch_size
        self.batch_size = whole_number("batch_size", batch_size, least=1)
        self.eval_batch_size = whole_number("eval_batch_size", eval_batch_size, least=1)
        self.batch_size_is_total = flag("batch_size_is_total", batch_size_is_total)
        self.val_size = part_of_training("val_size", val_size)
        self.limit_train = None if limit_train is None else whole_number("limit_train", limit_train, least=1)
        self.limit_eval = None if limit_eval is None else whole_number("limit_eval", limit_eval, least=1)
        self.seed = whole_number("seed", seed, least=0)
        self.drop_last = flag("drop_last", drop_last)

    # What a data set defines

    @property
    def has_validation(self) -> bool:
        """Whether the data set has validation samples of its own."""
        return False

    @property
    def num_classes(self) -> int:
        """How many classes there are; known before :meth:`setup`."""
        return len(self.class_names)

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """The classes' names in the order of their indices."""

    @property
    def num_views(self) -> int:
        """How many views of each training sample there are."""
        return 1

    @abstractmethod
    def _targets(self, split: Split) -> Tensor:
        """(N,), int64, on the CPU: the classes of a whole split, which is loaded when first asked for."""

    @abstractmethod
    def _loader(self, split: Split, sampler: EpochSampler, training: bool) -> Loader[Any]:
        """The batches of a split that a sampler names."""

    @property
    def _selection(self) -> tuple[object, ...]:
        """What decides which of the training samples train."""
        return self.has_validation or self.val_size or None, self.limit_train

    def _hash(self, *decides: object) -> str:
        """One over the data set's name and whatever else decides."""
        return hashlib.sha256(repr((self.name, *decides)).encode()).hexdigest()[:32]

    # Splits

    @property
    def validates_on_test(self) -> bool:
        """Whether validation and test are the same samples, so that the best of many epochs is the best on test."""
        return self.val_size == 0 and not self.has_validation

    @property
    def train_targets(self) -> Tensor:
        """(N,), int64, on the CPU: the classes of the full training set, by the batches' ``index``."""
        return self._targets("train")

    @cached_property
    def train_indices(self) -> Tensor:
        """(n,), int64: the positions of those samples of the full training set that train."""
        targets = self.train_targets
        return self._limited(complement(self._held_out, len(targets)), targets, self.limit_train)

    @cached_property
    def val_indices(self) -> Tensor:
        """(n,), int64: the positions of the samples that validate, in the set that they come from."""
        targets = self._targets(self._val_split)
        held_out = self._held_out if self._val_split == "train" else torch.arange(len(targets))
        return self._limited(held_out, targets, self.limit_eval)

    @cached_property
    def test_indices(self) -> Tensor:
        """(n,), int64: the positions of the samples that test, in the full test set."""
        targets = self._targets("test")
        return self._limited(torch.arange(len(targets)), targets, self.limit_eval)

    @property
    def _val_split(self) -> Split:
        if self.has_validation:
            return "val"
        return "test" if self.validates_on_test else "train"

    @cached_property
    def _held_out(self) -> Tensor:
        """(n,), int64: the positions in the full training set of what does not train because it validates."""
        if self._val_split != "train":
            return torch.empty(0, dtype=torch.int64)
        return self._draw_validation(self.train_targets)

    def _draw_validation(self, targets: Tensor) -> Tensor:
        return stratified_subset(targets, self._val_count(len(targets), "samples"))

    def _val_count(self, total: int, what: str) -> int:
        """What ``val_size`` comes to, of ``total``."""
        fraction = isinstance(self.val_size, float)
        count = max(1, round(self.val_size * total)) if fraction else int(self.val_size)
        if count >= total:
            raise UserError(f"val_size={self.val_size} of {total} training {what} leaves none to train: lower it")
        return count

    @staticmethod
    def _limited(indices: Tensor, targets: Tensor, limit: int | None) -> Tensor:
        if limit is None or limit >= len(indices):
            return indices
        return indices[stratified_subset(targets[indices], limit)]

    # Lightning's hooks

    def setup(self, stage: str | None = None) -> None:
        """Load the samples of a stage, ``"fit"``, ``"validate"``, ``"test"``, ``"predict"`` or all of them."""
        needed: dict[str | None, set[Split]] = {
            "fit": {"train", self._val_split},
            "validate": {self._val_split},
            "test": {"test"},
            "predict": {"test"},
        }
        for split in sorted(needed.get(stage, {"train", self._val_split, "test"})):
            self._targets(split)

    def train_dataloader(self) -> Loader[Any]:
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
        return self._loader("train", sampler, training=True)

    def val_dataloader(self) -> Loader[Any]:
        """Validation batches."""
        return self._loader(self._val_split, self._evaluation(self.val_indices), training=False)

    def test_dataloader(self) -> Loader[Any]:
        """Test batches."""
        return self._loader("test", self._evaluation(self.test_indices), training=False)

    def plain_training_set(self) -> Loader[Any]:
        """Batches of the samples that train, in order and not augmented, each once; the same on every process."""
        return self._loader("train", EvaluationSampler(self.train_indices, self.eval_batch_size), training=False)

    def held_out_dataloader(self) -> Loader[Any]:
        """The validation samples in batches of the training's size, without augmentation.

        In an order that (seed, epoch) decides, so that classes are mixed: what the student does not train on, for
        temperatures that learn from it.

        Raises:
            UserError: they are the test samples.
        """
        self.check_held_out()
        rank, world_size = self._process()
        size = self._batch_of_a_process(world_size)
        sampler = EpochSampler(self.val_indices, size, seed=self.seed, rank=rank, world_size=world_size)
        return self._loader(self._val_split, sampler, training=False)

    def check_held_out(self) -> None:
        """Refuse to learn from the test samples.

        Raises:
            UserError: validation is on them.
        """
        if self.validates_on_test:
            raise UserError(
                f"objective='held_out' learns from the validation samples, and with val_size={self.val_size} these are "
                "the test's: set val_size above 0, such as 0.1, or take another objective"
            )

    def predict_dataloader(self) -> Loader[Any]:
        """The test batches."""
        return self.test_dataloader()

    def _evaluation(self, indices: Tensor) -> EvaluationSampler:
        rank, world_size = self._process()
        return EvaluationSampler(indices, self.eval_batch_size, rank=rank, world_size=world_size)

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
