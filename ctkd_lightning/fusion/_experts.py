"""The experts' scores in one piece: what a fusion works on, and the way back to the shape that they came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctkd_lightning._scores.scores import Scores
from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.temperature._softening import bounded_below


@dataclass(frozen=True)
class Layout:
    """How scores lie in their tensor.

    Attributes:
        shape: of each expert's scores.
        class_dim: where the classes are; ``None`` where each score is a position of its own.
    """

    shape: torch.Size
    class_dim: int | None

    @property
    def positions(self) -> torch.Size:
        """The shape without the classes."""
        if self.class_dim is None:
            return self.shape
        return self.shape[: self.class_dim] + self.shape[self.class_dim + 1 :]

    def scores(self, rows: Tensor) -> Tensor:
        """Rows (N, C) in the scores' shape; of two classes that are there and not there, their difference."""
        if self.class_dim is None:
            return (rows[:, 0] - rows[:, 1]).reshape(self.shape)
        return rows.reshape(*self.positions, rows.shape[-1]).movedim(-1, self.class_dim)

    def per_position(self, values: Tensor) -> Tensor:
        """Values (N,), one a position, in the scores' shape with one class: (B, 1), (B, T, 1), (B, 1, H, W)."""
        found = values.reshape(self.positions)
        return found if self.class_dim is None else found.unsqueeze(self.class_dim)


@dataclass(frozen=True)
class Experts:
    """Scores of M experts at N positions.

    Attributes:
        logits: (N, M, C), float32 or wider, finite; zeros where an expert has none.
        present: (N, M), bool.
        layout: of the tensors that they come from.
    """

    logits: Tensor
    present: Tensor
    layout: Layout


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Modalities' names.

    Raises:
        UserError: one string, none, no words, or one twice.
    """
    if isinstance(names, str):
        raise UserError(f"modalities must be several names, found {names!r}: pass a list such as ['image', 'audio']")
    found = tuple(names)
    if not found:
        raise UserError("a fusion needs at least one modality: pass modalities=['image', 'audio']")
    for name in found:
        if not isinstance(name, str) or not name or "." in name or found.count(name) > 1:
            raise UserError(
                f"modalities must be different words without a dot, found {list(found)}: metrics and checkpoints have "
                "their names"
            )
    return found


def stack(
    given: Mapping[str, Tensor | None],
    names: Sequence[str],
    scores: Scores,
    num_classes: int | None,
    mask: Tensor | Mapping[str, Tensor] | None,
) -> Experts:
    """The modalities' scores as one tensor, and which of them there are.

    Args:
        given: scores by name, all of one shape; ``None`` for a modality that is missing everywhere.
        names: of the modalities, in their order.
        scores: what they mean.
        num_classes: how many classes they must score; ``None`` for any number.
        mask: see :meth:`~ctkd_lightning.TemperatureFusion.forward`.

    Raises:
        UserError: names, shapes or numbers of classes that do not fit.
    """
    _check_given(given, names)
    there = {name: value for name, value in given.items() if value is not None}
    first = next(iter(there), None)
    if first is None:
        raise UserError("each modality is None, so that not even the batch's size is known: pass the scores of one")
    layout = _layout(first, there[first], scores, num_classes)
    parts: dict[str, Tensor] = {}
    for name, value in there.items():
        if value.shape != layout.shape:
            raise UserError(
                f"scores of {first!r} have shape {tuple(layout.shape)}, those of {name!r} {tuple(value.shape)}: all "
                "modalities must score the same samples and classes; say which samples miss one with mask="
            )
        parts[name] = bounded_below(scores.logits(value, name, layout.class_dim)).flatten(0, -2)
    none = torch.full_like(parts[first], torch.nan)
    logits = torch.stack([parts.get(name, none) for name in names], dim=1)
    present = _are_scores(logits)
    if mask is not None:
        present = present & _fit_mask(mask, names, layout, logits.device)
    return Experts(logits.masked_fill(~present.unsqueeze(-1), 0.0), present, layout)


def _are_scores(logits: Tensor) -> Tensor:
    """Which rows (..., C) say something: finite, as masked classes are by now, and not all masked."""
    return logits.isfinite().all(dim=-1) & (logits > -9000).any(dim=-1)


def _check_given(given: Mapping[str, Tensor | None], names: Sequence[str]) -> None:
    if not isinstance(given, Mapping):
        raise UserError(
            f"pass the modalities' scores by name, as in fusion({{{names[0]!r}: scores, …}}); found a "
            f"{type(given).__name__}"
        )
    for name, value in given.items():
        if name not in names:
            raise UserError(f"there is no modality {name!r}: {suggest(str(name), names)}")
        if value is not None and not isinstance(value, Tensor):
            raise UserError(f"scores of {name!r} must be a tensor, or None where it is missing, found {value!r:.60}")
    missing = [name for name in names if name not in given]
    if missing:
        raise UserError(
            f"no scores of {', '.join(map(repr, missing))}: pass None for a modality that is missing in the whole batch"
        )


def _layout(name: str, value: Tensor, scores: Scores, num_classes: int | None) -> Layout:
    shape = value.shape
    if scores.single:
        if scores.task == "multilabel" and num_classes is not None and (value.ndim < 2 or shape[-1] != num_classes):
            raise UserError(
                f"the fusion was made for {num_classes} labels, found scores {tuple(shape)} of {name!r}: pass (B, "
                f"{num_classes}), or another num_classes"
            )
        return Layout(shape, None)
    if value.ndim < 2:
        raise UserError(
            f"scores of {name!r} have shape {tuple(shape)}: pass (B, C), or task='binary' for one score a sample"
        )
    if scores.class_dim is not None:
        dim = scores.class_dim if scores.class_dim >= 0 else scores.class_dim + value.ndim
        fits = 0 <= dim < value.ndim and num_classes in (None, shape[dim])
        places = [dim] if fits else []
    else:
        places = [d for d in sorted({1, value.ndim - 1}) if num_classes in (None, shape[d])]
    if len(places) == 1:
        return Layout(shape, places[0])
    if num_classes is None:
        raise UserError(
            f"where the scores {tuple(shape)} of {name!r} have their classes cannot be told: pass class_dim=, 1 for "
            "maps (B, C, H, W), -1 for sequences (B, T, C)"
        )
    why = "two dimensions have that size" if places else "none has that size there"
    raise UserError(
        f"the fusion was made for {num_classes} classes, found scores {tuple(shape)} of {name!r} ({why}): pass another "
        "num_classes, or class_dim=, 1 for maps (B, C, H, W), -1 for sequences (B, T, C)"
    )


def _fit_mask(
    mask: Tensor | Mapping[str, Tensor], names: Sequence[str], layout: Layout, device: torch.device
) -> Tensor:
    """(N, M), bool, of a mask by name or in one tensor, one entry a sample or a position."""
    if isinstance(mask, Mapping):
        for name in mask:
            if name not in names:
                raise UserError(f"mask names no modality with {name!r}: {suggest(str(name), names)}")
        columns = [_spread(mask[n], layout, device) if n in mask else None for n in names]
        count = layout.positions.numel()
        return torch.stack(
            [torch.ones(count, dtype=torch.bool, device=device) if c is None else c for c in columns], dim=1
        )
    if mask.shape[-1:] != (len(names),):
        raise UserError(
            f"mask has shape {tuple(mask.shape)}: pass (B, {len(names)}), one column for each of {', '.join(names)}, "
            "or a mapping from names to (B,)"
        )
    return torch.stack([_spread(column, layout, device) for column in mask.unbind(dim=-1)], dim=1)


def _spread(entries: Tensor, layout: Layout, device: torch.device) -> Tensor:
    positions = layout.positions
    entries = (entries != 0).to(device)
    if entries.shape == positions:
        return entries.flatten()
    if entries.shape == positions[: entries.ndim]:
        return entries.reshape(entries.shape + (1,) * (len(positions) - entries.ndim)).expand(positions).flatten()
    raise UserError(
        f"mask has entries of shape {tuple(entries.shape)} for scores at {tuple(positions)}: pass one a sample "
        f"({positions[0]},), or one a position"
    )
