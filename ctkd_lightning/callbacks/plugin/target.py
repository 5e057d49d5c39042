"""Find the target in a batch of foreign code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from ctkd_lightning._scores.batches import find_targets, has_names
from ctkd_lightning._scores.scores import Scores
from ctkd_lightning.errors import UserError


class TargetFinder:
    """Tell which entry of a batch says what is right, by its usual place, its shape and type.

    Where several entries of (inputs, …) may be it for a classifier's scores (B, C), those fall out whose numbers in the
    first batch are no classes, such as the samples' positions in the training set.

    Args:
        scores: what the networks' scores mean.
        ignore_index: the target that leaves its position out.
        masked: whether the user says otherwise which positions count.
    """

    def __init__(self, scores: Scores, ignore_index: int, masked: bool) -> None:
        self.scores, self.ignore_index = scores, ignore_index
        self._told = masked
        self._no_classes: set[int] | None = None  # places of entries; not looked yet
        self._known: tuple[Any, int | None] = (None, None)  # a batch's kind and its target's place, of the last one

    def find(self, batch: Any, scores: Tensor) -> Tensor | None:
        """The target; ``None`` where there is none, or it cannot be told.

        Args:
            batch: what ``training_step`` got.
            scores: the student's.

        Raises:
            UserError: it cannot be told, and where the classes are was to be told from it.
        """
        entries = find_targets(batch, of_maps=scores.ndim > 3)
        kind = has_names(batch), scores.shape, [(entry.shape, entry.dtype) for entry in entries]
        if kind != self._known[0]:  # the place depends on nothing else
            self._known = kind, self._place(entries, scores, named=kind[0])
        place = self._known[1]
        return None if place is None else entries[place]

    def _place(self, entries: list[Tensor], scores: Tensor, *, named: bool) -> int | None:
        places = [i for i, entry in enumerate(entries) if self.scores.may_be_target(entry, scores.shape)]
        if not self.scores.single and scores.ndim == 2 and not named:
            places = self._without_other_numbers(entries, places, scores.shape[1])
        if places and places[0] != 0 and self.scores.may_be_soft(entries[0], scores.shape):
            places.insert(0, 0)  # beside one-hot or mixed labels, whole numbers are lengths or positions
        if len(places) <= 1:
            return places[0] if places else None
        shapes = " and ".join(dict.fromkeys(str(tuple(entries[i].shape)) for i in places))
        problem = (
            f"the batch has {len(places)} entries of shape {shapes} that may be the target: say which with "
            "target=lambda batch: …"
        )
        if not self.scores.single and scores.ndim > 2 and self.scores.class_dim is None:
            raise UserError(f"{problem}; where the classes are and what is to be ignored is told from it")
        self._tell(f"{problem}; until then no ignored target is left out")
        return None

    def check_parts(self, batch: Any, scores: Sequence[Tensor], needed: bool) -> None:
        """Look whether several calls each had a part of the batch, whose targets cannot be told apart by their shape.

        Args:
            batch: what ``training_step`` got.
            scores: of each call, for none of which :meth:`find` found a target.
            needed: whether there must be targets.

        Raises:
            UserError: it is so, and there must be.
        """
        rows = [len(each) for each in scores]
        whole = torch.Size([sum(rows), *scores[0].shape[1:]])
        if not any(self.scores.may_be_target(entry, whole) for entry in find_targets(batch)):
            return
        problem = (
            f"training_step called the student {len(rows)} times, with {', '.join(map(str, rows))} of the batch's "
            f"{sum(rows)} samples, and which targets are whose is not known: return one tensor for each call, in the "
            f"calls' order, as with target=lambda batch: batch[1].chunk({len(rows)})"
        )
        if needed:
            raise UserError(problem)
        self._tell(f"{problem}; until then no ignored target is left out")

    def _without_other_numbers(self, entries: list[Tensor], places: list[int], classes: int) -> list[int]:
        if self._no_classes is None:
            self._no_classes = {i for i in places if not self._may_be_classes(entries[i], classes)}
            if places and self._no_classes == set(places):
                self._tell(
                    f"the batch has whole numbers beside its inputs, and not all of them are from 0 to {classes - 1}: "
                    "they are not taken for classes; if they are, name the one to leave out with ignore_index=, or say "
                    "where the target is with target=lambda batch: …"
                )
        return [i for i in places if i not in self._no_classes]

    def _may_be_classes(self, entry: Tensor, classes: int) -> bool:
        numbers = entry.long()
        return bool((((numbers >= 0) & (numbers < classes)) | (numbers == self.ignore_index)).all())

    def _tell(self, message: str) -> None:
        if not self._told:
            self._told = True
            rank_zero_warn(message)
