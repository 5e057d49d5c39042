"""Which part of a checkpoint is the network."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ctkd_lightning.errors import UserError
from ctkd_lightning.models._checkpoint import PLAIN_PLACES, WRAPPERS, main_part
from ctkd_lightning.models._outline import Outline

StateDicts = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Part:
    """The entries of one dictionary of a file whose names begin alike.

    Attributes:
        place: the dictionary's key in the file, dotted where it is nested; empty for the file's own entries.
        prefix: what the names begin with, without its last dot; may be empty.
        entries: the whole dictionary.
    """

    place: str
    prefix: str
    entries: Mapping[str, Tensor]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The part's entries by their names after the prefix."""
        start = f"{self.prefix}." if self.prefix else ""
        return {name.removeprefix(start): tensor for name, tensor in self.entries.items() if name.startswith(start)}

    @property
    def label(self) -> str:
        """What chooses this part: its prefix, after its key unless that is the usual one."""
        return self._inner if self.place in PLAIN_PLACES else self.address

    @property
    def address(self) -> str:
        """Key and prefix."""
        return ".".join(piece for piece in (self.place, self._inner) if piece)

    @property
    def rank(self) -> int:
        """0 for a network's names under a usual key, 1 for other names there, 2 under another key."""
        return 2 if self.place not in PLAIN_PLACES else 1 if self._inner else 0

    @property
    def _inner(self) -> str:
        return _unwrapped(self.prefix)


def find_part(outline: Outline, places: StateDicts, path: str | Path, prefix: str | None = None) -> Part:
    """Find the one part of a checkpoint that is the network.

    A part without a prefix, under a usual key, is taken before one with a prefix, and that before one under another
    key; a warning then names the others. Where nothing fits the part that comes nearest is returned, for the caller to
    say what is wrong with it.

    Args:
        outline: the network's.
        places: the dictionaries of tensors in the file by their keys.
        path: the file, for the messages.
        prefix: the part to take, by its prefix, its key or both, ``key.prefix``; found by itself if ``None``.

    Raises:
        UserError: several parts fit, or none has this prefix.
    """
    parts = [Part(place, start, entries) for place, entries in places.items() for start in _prefixes(entries)]
    counts = _count(outline, places)
    whole = [part for part in parts if counts[part.place, part.prefix] == len(outline.required)]
    fits = [part for part in whole if outline.fits(part.tensors)]
    if prefix is not None:
        tiers = _chosen(parts, prefix)
        parts = [part for tier in tiers for part in tier]
        if not parts:
            raise UserError(f"{path} has nothing under the prefix {prefix!r}: {_advice(fits, places)}")
        fits = next((fitting for tier in tiers if (fitting := [part for part in tier if part in fits])), [])
    if fits:
        return _only(fits, path)
    nearest = max(parts, key=lambda part: (counts[part.place, part.prefix], -part.rank, -len(part.prefix)))
    near = 2 * counts[nearest.place, nearest.prefix] >= len(outline.required)
    # with few names in common it is the file's main part that the user will recognise
    return nearest if near or prefix is not None else Part("", "", main_part(places, path))


def _prefixes(entries: Mapping[str, Tensor]) -> Iterator[str]:
    pieces = [name.split(".")[:-1] for name in entries]
    yield from dict.fromkeys(".".join(piece[:length]) for piece in pieces for length in range(len(piece) + 1))


def _count(outline: Outline, places: StateDicts) -> Counter[tuple[str, str]]:
    """How many of the network's names there are by place and prefix."""
    counts: Counter[tuple[str, str]] = Counter()
    for place, entries in places.items():
        for name in entries:
            pieces = name.split(".")
            cuts = [cut for cut in range(len(pieces)) if ".".join(pieces[cut:]) in outline.required]
            counts.update((place, ".".join(pieces[:cut])) for cut in cuts)
    return counts


def _chosen(parts: Sequence[Part], prefix: str) -> list[list[Part]]:
    """The parts that a user may mean, those first that are called so: by address, by label, then those below it."""
    prefix = prefix.strip(".")
    wanted = {prefix, _unwrapped(prefix)}
    tiers = [[part for part in parts if part.address in wanted], [part for part in parts if part.label in wanted]]
    if prefix:
        tiers.append([part for part in parts if part.address.startswith(f"{prefix}.")])
        tiers.append([part for part in parts if part.label.startswith(f"{prefix}.")])
    return tiers


def _only(fits: Sequence[Part], path: str | Path) -> Part:
    different = [part for number, part in enumerate(fits) if not any(_equal(part, other) for other in fits[:number])]
    first = min(part.rank for part in different)
    best = [part for part in different if part.rank == first]
    if len(best) > 1:
        raise UserError(
            f"{path} holds several networks that fit, {_list(best)}: choose one, load_weights(model, path, "
            f"prefix={_names(best)[0]!r})"
        )
    others = [part for part in different if part is not best[0]]
    if others:
        warnings.warn(
            f"{path} holds several networks that fit: the one {_list(best)} is loaded, and not what lies "
            f"{_list(others)}; load_weights(model, path, prefix={_names(others)[0]!r}) chooses another",
            stacklevel=4,
        )
    return best[0]


def _equal(first: Part, second: Part) -> bool:
    return first.tensors.keys() == second.tensors.keys() and all(
        torch.equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items()
    )


def _names(parts: Sequence[Part]) -> list[str]:
    """Their labels, or their addresses where a label says nothing or two have the same."""
    labels = Counter(part.label for part in parts)
    return [part.label if labels[part.label] == 1 and part.label else part.address for part in parts]


def _list(parts: Sequence[Part], limit: int = 5) -> str:
    names = [f"under {name!r}" if name else "without a prefix" for name in _names(parts)]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _advice(fits: Sequence[Part], places: StateDicts) -> str:
    if fits:
        return f"the network lies {_list(fits)}"
    roots = dict.fromkeys(
        ".".join((place, name.partition(".")[0])).strip(".") for place in places for name in places[place]
    )
    return f"it holds {', '.join(list(roots)[:5])}{', …' if len(roots) > 5 else ''}"


def _unwrapped(prefix: str) -> str:
    return ".".join(piece for piece in prefix.split(".") if piece not in WRAPPERS)
