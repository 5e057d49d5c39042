"""Labelled samples of several modalities, in memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ctkd_lightning.errors import UserError

LABELS = ("target", "index")
"""What a batch holds beside the modalities."""


class Samples:
    """Labelled samples of several modalities.

    Args:
        values: of each modality (N, ...), finite.
        targets: (N,), int64.
        groups: (N,), int64, what must not be split: the person whom a sample was recorded from.

    Raises:
        UserError: no modality, one of a reserved name, differing numbers of samples, values that are not finite.
    """

    def __init__(self, values: Mapping[str, Tensor], targets: Tensor, groups: Tensor | None = None) -> None:
        self.values = dict(values)
        self.targets = targets
        self.groups = groups
        self._check()

    def _check(self) -> None:
        if not self.values:
            raise UserError("no modality was given: at least one is needed")
        if reserved := [name for name in self.values if name in LABELS]:
            raise UserError(
                f"a modality is called {reserved[0]}, as a batch calls its {' and '.join(LABELS)}: rename it"
            )
        counts = {name: len(values) for name, values in self.values.items()} | {"targets": len(self.targets)}
        if self.groups is not None:
            counts["groups"] = len(self.groups)
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise UserError(
                f"the modalities have different numbers of samples ({found}): each sample needs all of them"
            )
        for name, values in self.values.items():
            wrong = values.isfinite().logical_not().nonzero()
            if len(wrong):
                first = int(wrong[0, 0])
                raise UserError(
                    f"the modality {name} holds NaN or infinity, first in sample {first}: mend or remove it"
                )

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, positions: Tensor) -> Samples:
        """The samples at some positions (n,), int64, in that order."""
        groups = None if self.groups is None else self.groups[positions]
        return Samples(
            {name: values[positions] for name, values in self.values.items()}, self.targets[positions], groups
        )

    def to(self, device: torch.device) -> Samples:
        """Move values and targets to a device, once: whoever shares this object finds them there."""
        self.values = {name: values.to(device) for name, values in self.values.items()}
        self.targets = self.targets.to(device)
        return self


class Scaling:
    """x ↦ (x − shift) / width, with shift and width of the samples that it is made from.

    Of vectors (N, F) for each feature; of series (N, C, T) or maps for each channel. Mean and deviation (the
    population's, 1 / N) make mean 0 and deviation 1; under ``unit`` least and greatest value make the range 0 to 1.
    What does not vary there is only shifted.

    Args:
        values: of each modality, (N, ...).
        unit: which of the two.
    """

    def __init__(self, values: Mapping[str, Tensor], unit: bool = False) -> None:
        measure = _range if unit else _moments
        self.measures = {name: measure(x.double()) for name, x in values.items()}

    def __call__(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scaled values of the same modalities, float32."""
        scaled = {}
        for name, x in values.items():
            shift, width = self.measures[name]
            scaled[name] = ((x - shift) / width).float()
        return scaled


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    deviation, mean = torch.std_mean(x, dim=_others(x), correction=0, keepdim=True)
    return mean, torch.where(deviation > 0, deviation, 1.0)


def _range(x: Tensor) -> tuple[Tensor, Tensor]:
    low, high = x.amin(dim=_others(x), keepdim=True), x.amax(dim=_others(x), keepdim=True)
    return low, torch.where(high > low, high - low, 1.0)


def _others(x: Tensor) -> list[int]:
    return [dim for dim in range(x.ndim) if dim != 1]
