"""Several teachers that are asked together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.features.frozen import FrozenNetwork
from ctkd_lightning.features.outputs import Pick, pick_logits

Teacher = nn.Module | Mapping[str, nn.Module]
"""One network, or several by name."""


class FrozenTeachers(nn.Module):
    """Ask several frozen networks the same; their scores are one tensor, in dimension 1 a row for each.

    Args:
        teachers: by name; each is frozen by itself, in its own type.
        pick: from a teacher's output to its scores, where that is neither a tensor nor has ``.logits``.

    Raises:
        UserError: in use, scores of different shapes.
    """

    def __init__(self, teachers: Mapping[str, FrozenNetwork], pick: Pick | None = None) -> None:
        super().__init__()
        self.teachers = nn.ModuleDict(dict(teachers))
        self.pick = pick

    @property
    def network(self) -> nn.ModuleDict:
        """The networks themselves."""
        return nn.ModuleDict({name: teacher.network for name, teacher in self._named.items()})

    @property
    def _named(self) -> dict[str, FrozenNetwork]:
        return cast(dict[str, FrozenNetwork], dict(self.teachers.items()))

    def freeze(self) -> None:
        """As :meth:`FrozenNetwork.freeze`, each of them."""
        for teacher in self._named.values():
            teacher.freeze()

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Scores (B, M, …) of M teachers, without gradients."""
        scores = {
            name: pick_logits(teacher(*args, **kwargs), self.pick, f"teacher {name!r}")
            for name, teacher in self._named.items()
        }
        _check_alike(scores)
        return torch.stack(list(scores.values()), dim=1)


def named_teachers(teacher: Any) -> nn.Module:
    """The teacher as one module: of several an ``nn.ModuleDict``; one alone, by name or not, is itself.

    Raises:
        UserError: no network, or names that metrics and modules cannot have.
    """
    if not isinstance(teacher, Mapping | nn.ModuleDict):
        if not isinstance(teacher, nn.Module):
            raise UserError(f"teacher must be a network, found {type(teacher).__name__}: pass teacher=…")
        return teacher
    if not teacher:
        raise UserError('teacher names no network: pass a network, or several as in teacher={"a": …, "b": …}')
    for name, network in teacher.items():
        if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict, name):
            raise UserError(f"a teacher is named {name!r}: take another word, without a dot")
        if not isinstance(network, nn.Module):
            raise UserError(f"teacher {name!r} must be a network, found {type(network).__name__}")
    found = dict(teacher.items())
    return next(iter(found.values())) if len(found) == 1 else nn.ModuleDict(found)


def _check_alike(scores: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(value.shape) for name, value in scores.items()}
    usual, count = Counter(shapes.values()).most_common(1)[0]
    if count == len(shapes):
        return
    other = next(name for name, shape in reversed(shapes.items()) if shape != usual)
    like = next(name for name, shape in shapes.items() if shape == usual)
    raise UserError(
        f"teacher {other!r} gives scores of shape {shapes[other]}, and {like!r} {usual}: all teachers must score the "
        "same classes; take the same of each with teacher_logits=lambda output: …, or leave it out"
    )
