"""Data modules of samples that are seen in several modalities."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ctkd_lightning.data._labelled import LabelledDataModule, Split
from ctkd_lightning.data._loading.multimodal import MultimodalLoader
from ctkd_lightning.data._loading.sampler import EpochSampler
from ctkd_lightning.data._samples import LABELS, Samples, Scaling
from ctkd_lightning.data._split import group_subset
from ctkd_lightning.errors import UserError, suggest

SCALINGS = ("standard", "unit")


class MultimodalDataModule(LabelledDataModule):
    """Labelled samples of several modalities, all in the training device's memory.

    A batch is a dictionary: of each modality (B, ...), float32; ``target`` (B,), int64 class indices; ``index`` (B,),
    int64, the samples' positions in the full training (or evaluation) set. The values are scaled by those
    of the samples that train: of vectors each feature, of series (C, T) and maps each channel.

    Where the samples come from subjects, :meth:`load` says so in the samples' ``groups``, and ``val_size`` is a
    fraction or count of the training *subjects*: none of them is seen both in training and in validation.

    Works with any Trainer and module, or alone: ``next(iter(data.train_dataloader()))``.

    Args:
        modalities: the names of those to give, in this order; all of them by default.
        scaling: ``"standard"``: to mean 0 and deviation 1; ``"unit"``: to the range from 0 to 1.
        **common: the arguments of ``LabelledDataModule``: batch_size, eval_batch_size, batch_size_is_total, val_size,
            limit_train, limit_eval, seed, drop_last.

    Raises:
        UserError: a setting that cannot be.

    Attributes:
        modalities: the shape of one sample in each modality that a batch has, by name, in the batch's order.
    """

    def __init__(self, *, modalities: Sequence[str] | None = None, scaling: str = "standard", **common: Any) -> None:
        super().__init__(**common)
        if scaling not in SCALINGS:
            raise UserError(f"unknown scaling {scaling!r}: {suggest(str(scaling), SCALINGS)}")
        self.scaling = scaling
        self.modalities = self._selected(modalities)
        self._samples: dict[Split, Samples] = {}
        self._scaled: dict[Split, Samples] = {}

    # What a data set defines

    @property
    @abstractmethod
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of one sample in each modality that there is, by name; known before the data are read.

        The constructor asks for it: a data set whose settings decide it keeps these first.
        """

    @abstractmethod
    def load(self, split: Split) -> Samples:
        """Load the training or the test samples, with the chosen modalities at least.

        Raises:
            UserError: the files are missing or broken.
        """

    # What it says of them

    @property
    def example(self) -> dict[str, Tensor]:
        """Two samples of the right shapes that show nothing, for whoever wants to see a network's outputs."""
        zeros = {name: torch.zeros(2, *shape) for name, shape in self.modalities.items()}
        return {**zeros, **{label: torch.zeros(2, dtype=torch.int64) for label in LABELS}}

    def split_samples(self, split: Split) -> Samples:
        """All samples of a split in the chosen modalities, as they were measured; loaded when first asked for.

        Raises:
            UserError: the files are missing or broken, or hold something else than they should.
        """
        if split not in self._samples:
            loaded = self.load(split)
            for name, shape in self.modalities.items():
                found = tuple(loaded.values[name].shape[1:])
                if found != shape:
                    raise UserError(f"{self.name} has {name} of shape {found}, expected {shape}: replace its files")
            chosen = {name: loaded.values[name] for name in self.modalities}
            self._samples[split] = Samples(chosen, loaded.targets, loaded.groups)
        return self._samples[split]

    @cached_property
    def scale(self) -> Scaling:
        """By the samples that train."""
        training = self.split_samples("train").select(self.train_indices)
        return Scaling(training.values, unit=self.scaling == "unit")

    def validation_batch(self) -> dict[str, Tensor]:
        """All validation samples in one batch, on the CPU; the same on every process."""
        samples = self._scaled_samples(self._val_split).select(self.val_indices)
        return {**samples.values, "target": samples.targets, "index": self.val_indices}

    # What the splits and loaders are made of

    def _selected(self, names: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
        shapes = self.shapes
        if names is None:
            return dict(shapes)
        names = [names] if isinstance(names, str) else list(names)
        for name in names:
            if name not in shapes:
                raise UserError(f"{self.name} has no modality {name!r}: {suggest(str(name), shapes)}")
        if len(set(names)) < max(len(names), 1):
            raise UserError(f"modalities={names}: name one or more, each once")
        return {name: shapes[name] for name in names}

    def _targets(self, split: Split) -> Tensor:
        return self.split_samples(split).targets

    def _draw_validation(self, targets: Tensor) -> Tensor:
        groups = self.split_samples("train").groups
        if groups is None:
            return super()._draw_validation(targets)
        return group_subset(groups, self._val_count(len(groups.unique()), "subjects"))

    def _loader(self, split: Split, sampler: EpochSampler, training: bool) -> MultimodalLoader:
        return MultimodalLoader(self._scaled_samples(split), sampler, self._device())

    def _scaled_samples(self, split: Split) -> Samples:
        if split not in self._scaled:
            samples = self.split_samples(split)
            values = self.scale(samples.values)
            self._scaled[split] = Samples(values, samples.targets, samples.groups)
        return self._scaled[split]
