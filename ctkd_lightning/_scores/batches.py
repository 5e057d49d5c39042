"""Where a batch has its entries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import is_integer

INPUT_KEYS = ("image", "images", "x", "input", "inputs", "pixel_values")
TARGET_KEYS = ("labels", "label", "targets", "target", "y")
MAP_KEYS = ("mask", "masks")  # of the classes of pixels; elsewhere of padding
INDEX_KEYS = ("index", "indices", "idx")
VIEW_KEYS = ("view", "views")


class Sample(NamedTuple):
    """The entries of a batch for a classifier.

    Attributes:
        inputs: what the networks take, (B, ...).
        target: of any shape; ``None`` where there is none, as in prediction.
        index: (B,), positions in the training set.
        view: (B,), which augmentation of the sample this is.
    """

    inputs: Tensor
    target: Tensor | None = None
    index: Tensor | None = None  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a batch
    view: Tensor | None = None


def read_batch(batch: Any, pick: Callable[[Any], Tensor] | None = None) -> Sample:
    """The entries of a batch: a tensor, a tuple (inputs, target[, index, …]), or fields and keys of the usual names.

    Args:
        batch: what a loader gave.
        pick: from the batch to the inputs, where they have another name.

    Raises:
        UserError: it is none of these.

    Example:
        >>> import torch
        >>> read_batch({"image": torch.zeros(2, 3), "label": torch.ones(2)}).target
        tensor([1., 1.])
    """
    if isinstance(batch, Tensor):
        return Sample(batch)
    fields = _fields(batch)
    if fields is not None:
        inputs, *rest = (_first(fields, keys) for keys in (INPUT_KEYS, TARGET_KEYS, INDEX_KEYS, VIEW_KEYS))
    elif isinstance(batch, list | tuple) and batch:
        inputs, *rest = (batch[i] if len(batch) > i else None for i in range(4))
    else:
        inputs, *rest = (None,)
    if pick is not None:
        inputs = pick(batch)
    if not isinstance(inputs, Tensor):
        found = f"with {', '.join(map(str, fields)) or 'nothing'}" if fields is not None else _kinds(batch)
        raise UserError(
            f"a batch must be (inputs, target) or (inputs, target, index, view), or have the inputs under "
            f"{', '.join(INPUT_KEYS)} and the target under {', '.join(TARGET_KEYS)}; found a {type(batch).__name__} "
            f"{found}: collate it so, or take CurriculumTemperatureCallback with a module of your own"
        )
    return Sample(inputs, *(x if isinstance(x, Tensor) else None for x in rest))


def samples_in(batch: Any) -> int:
    """How many samples a batch has: the length of its first tensor, of a detector's batch the number of its images.

    Example:
        >>> import torch
        >>> samples_in([[torch.zeros(3, 4, 4)], [{"boxes": torch.zeros(0, 4)}]])
        1
    """
    parts = batch if isinstance(batch, list | tuple) and len(batch) == 2 else (None, None)
    if isinstance(parts[1], list | tuple) and any(isinstance(part, Mapping) for part in parts[1]):
        return len(parts[1])
    return len(next(tensors_of(batch)))


def need_labels(sample: Sample) -> Tensor:
    """The target of a batch that must have one.

    Raises:
        UserError: it has none.
    """
    if sample.target is None:
        raise UserError(
            "the batch has no target: a batch must be (inputs, target), or have the target under "
            f"{', '.join(TARGET_KEYS)}"
        )
    return sample.target


def find_targets(batch: Any, of_maps: bool = False) -> list[Tensor]:
    """What may be the target in a batch of foreign code: under its usual names, or each entry after the first.

    Args:
        batch: what ``training_step`` got.
        of_maps: whether the scores are those of pixels.
    """
    fields = _fields(batch)
    if fields is not None:
        named = _first(fields, TARGET_KEYS + MAP_KEYS if of_maps else TARGET_KEYS)
        return [named] if isinstance(named, Tensor) else []
    entries = batch[1:] if isinstance(batch, list | tuple) else ()
    return [entry for entry in entries if isinstance(entry, Tensor)]


def has_names(batch: Any) -> bool:
    """Whether a batch says by names what its entries are."""
    return _fields(batch) is not None


def find_index(batch: Any) -> Tensor | None:
    """The samples' positions in the training set: under their usual names, or the third entry."""
    fields = _fields(batch)
    if fields is not None:
        found = _first(fields, INDEX_KEYS)
    else:
        found = batch[2] if isinstance(batch, list | tuple) and len(batch) > 2 else None
    return found if isinstance(found, Tensor) and found.ndim == 1 and is_integer(found) else None


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """All tensors of a batch, also within containers."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping) or dataclasses.is_dataclass(batch):
        for value in (_fields(batch) or {}).values():
            yield from tensors_of(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from tensors_of(value)


def _fields(batch: Any) -> Mapping[str, Any] | None:
    """The entries by name, where a batch has names that say something."""
    if isinstance(batch, Mapping):
        return batch
    if dataclasses.is_dataclass(batch):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    names = getattr(batch, "_fields", None) if isinstance(batch, tuple) else None
    fields = dict(zip(names, batch, strict=True)) if names else None
    return fields if fields and any(key in fields for key in TARGET_KEYS) else None


def _first(fields: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((fields[key] for key in keys if key in fields), None)


def _kinds(batch: Any) -> str:
    entries = batch if isinstance(batch, list | tuple) else ()
    return f"of {', '.join(type(entry).__name__ for entry in entries)}" if entries else "without entries"
