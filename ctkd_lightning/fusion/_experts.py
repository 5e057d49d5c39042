"""The experts' scores in one piece: what a fusion works on, and the way back to the shape that they came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctkd_lightning._scores.ignored import fit_mask
from ctkd_lightning._scores.scores import Scores
from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.fusion._broken import BrokenNumbers
from ctkd_lightning.temperature._softening import bounded_below

_LOSSES = ("loss", "fused")  # what the fusion's losses have names for themselves


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
        UserError: one string, none, no words, one twice, or one that stands for something else.
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
        if name in _LOSSES or hasattr(nn.ModuleDict, name) or hasattr(nn.ModuleDict(), name):
            raise UserError(
                f"a modality cannot be named {name!r}, as a loss or a part of PyTorch's modules is: take another name"
            )
    return found


def stack(
    given: Mapping[str, Tensor | None],
    names: Sequence[str],
    scores: Scores,
    num_classes: int | None,
    mask: Tensor | Mapping[str, Tensor] | None,
    broken: BrokenNumbers,
) -> Experts:
    """The modalities' scores as one tensor, and which of them there are.

    Args:
        given: scores by name, all of one shape; ``None`` for a modality that is missing everywhere.
        names: of the modalities, in their order.
        scores: what they mean.
        num_classes: how many classes they must score; ``None`` for any number.
        mask: see :meth:`~ctkd_lightning.TemperatureFusion.forward`.
        broken: who tells of scores that are not finite.

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
        parts[name] = scores.logits(value, name, layout.class_dim).flatten(0, -2)
    none = torch.full_like(parts[first], torch.nan) if len(parts) < len(names) else parts[first]
    logits = torch.stack([parts.get(name, none) for name in names], dim=1)
    finite = _are_scores(logits)
    meant = _meant(mask, names, layout, finite)
    present = finite if meant is None else finite & meant
    lost = ~finite if meant is None else ~finite & meant
    if len(parts) < len(names):
        lost = lost & torch.tensor([name in there for name in names], device=lost.device)
    broken.look("scores", names, lost)
    return Experts(bounded_below(logits).masked_fill(~present.unsqueeze(-1), 0.0), present, layout)


def _are_scores(logits: Tensor) -> Tensor:
    """Which rows (..., C) say something: finite but for masked classes, and not all infinitely low."""
    greatest = logits.amax(dim=-1)  # NaN where one is
    return (greatest < torch.inf) & (greatest > -1e30)


def _check_given(given: Mapping[str, Tensor | None], names: Sequence[str]) -> None:
    if not isinstance(given, Mapping):
        raise UserError(
            f"pass the modalities' scores by name, as in fusion({{{names[0]!r}: scores, …}}); found a "
            f"{type(given).__name__}"
        )
    for name, value in given.items():
        if name not in names:
            raise UserError(f"there is no modality {name!r}: {suggest(str(name), names)}")
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise UserError(f"scores of {name!r} must be a tensor, or None where it is missing, found {value!r:.60}")
        if not value.is_floating_point():
            raise UserError(
                f"scores of {name!r} must be floating numbers, found {value.dtype}: pass what its head gives"
            )
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


def mask_by_name(mask: Tensor | Mapping[str, Tensor], names: Sequence[str]) -> Mapping[str, Tensor]:
    """A mask's entries by modality, of whatever shape.

    Raises:
        UserError: unknown names, or a tensor without a column for each modality.
    """
    if isinstance(mask, Mapping):
        for name, entries in mask.items():
            if name not in names:
                raise UserError(f"mask names no modality with {name!r}: {suggest(str(name), names)}")
            if not isinstance(entries, Tensor):
                raise UserError(
                    f"mask of {name!r} must be a tensor, found a {type(entries).__name__}: leave out a name"
                )
        return mask
    if not isinstance(mask, Tensor) or mask.shape[-1:] != (len(names),):
        found = f"has shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"is a {type(mask).__name__}"
        raise UserError(
            f"mask {found}: pass a tensor (B, {len(names)}), one column for each of {', '.join(names)}, or a mapping "
            "from names to (B,)"
        )
    return dict(zip(names, mask.unbind(dim=-1), strict=True))


def _meant(
    mask: Tensor | Mapping[str, Tensor] | None, names: Sequence[str], layout: Layout, like: Tensor
) -> Tensor | None:
    """(N, M), bool, as another such tensor: what a mask says is there; ``None`` for all."""
    if mask is None:
        return None
    columns = []
    given = mask_by_name(mask, names)
    for m, name in enumerate(names):
        if name in given:
            columns.append(fit_mask(given[name], layout.positions).flatten().to(like))  # bool: not 0
        else:
            columns.append(torch.ones_like(like[:, m]))
    return torch.stack(columns, dim=1)
