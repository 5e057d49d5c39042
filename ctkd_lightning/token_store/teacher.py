"""A store that is asked in a teacher's place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.features._asking import StudentCall
from ctkd_lightning.features.outputs import is_integer
from ctkd_lightning.token_store._stored import StoredTokens
from ctkd_lightning.token_store.store import TokenStore

Key = Callable[[Any], Any]
"""From the batch to its documents, one a row; or to a pair of these and the positions at which the rows begin."""


class StoredTeacher(nn.Module):
    """A teacher without a network: it says what a store has.

    Args:
        store: or its folder.
    """

    def __init__(self, store: TokenStore | str | Path) -> None:
        super().__init__()
        self.store = store if isinstance(store, TokenStore) else TokenStore(store)

    def stored(self, keys: Any, positions: Tensor | None, tokens: Tensor | None, device: torch.device) -> StoredTokens:
        """What the store has, as :meth:`TokenStore.at`."""
        return self.store.at(keys, positions, tokens=tokens, device=device)

    @torch.compiler.disable  # it reads files
    def forward(self, keys: Any, positions: Tensor | None, tokens: Tensor | None, device: torch.device) -> Tensor:
        """The logits (B, T, V) of that."""
        return self.stored(keys, positions, tokens, device).logits()

    def extra_repr(self) -> str:
        """The folder."""
        return str(self.store.folder)


class StoredInput:
    """From the student's call to what a :class:`StoredTeacher` is asked.

    The student's token ids, ``input_ids`` or its first argument, say how many positions there are, and must be the
    store's text. Where the call has an ``attention_mask``, the store's positions are those that it keeps, left or right
    of the padding.

    Args:
        key: from the batch to its documents: whole numbers (B,), or a pair (documents, offsets) of such.
    """

    def __init__(self, key: Key) -> None:
        self.key = key

    def __call__(self, batch: Any, call: StudentCall) -> Mapping[str, Any]:
        """The arguments by name.

        Raises:
            UserError: the batch has no such numbers; offsets below 0, or from which nothing says how far to read.
        """
        keys, offsets = self._picked(batch)
        tokens = _token_ids(call)
        like = tokens if tokens is not None else keys if isinstance(keys, Tensor) else _logits(call)
        positions = _positions(call, tokens)
        if offsets is not None:
            positions = _moved(positions, torch.as_tensor(offsets).reshape(-1), torch.as_tensor(keys).numel())
        device = torch.device("cpu") if like is None else like.device
        return {"keys": keys, "positions": positions, "tokens": tokens, "device": device}

    def _picked(self, batch: Any) -> tuple[Any, Any]:
        try:
            found = self.key(batch)
        except Exception as error:  # whatever a user's own function raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"key= found no documents in a batch of type {type(batch).__name__} ({reason}): it must pick their "
                'numbers, one a row, as in key=lambda batch: batch["id"]'
            ) from error
        pair = isinstance(found, tuple) and len(found) == 2 and all(_many(part) for part in found)
        parts = found if pair else (found,)
        for part in parts:
            if not _are_whole(part):
                raise UserError(
                    f"key= must pick whole numbers, one for each row of the batch, found {_told(part)}: give the "
                    "numbers of the store's documents"
                )
        return found if pair else (found, None)


def stored_teacher(
    store: TokenStore | str | Path | None, key: Key | None, beside: Mapping[str, Any], task: str
) -> tuple[StoredTeacher, StoredInput]:
    """The teacher that reads a store, and what asks it.

    Args:
        store: or its folder.
        key: from the batch to its documents.
        beside: settings that have no place with it, by name.
        task: what the scores say.

    Raises:
        UserError: one without the other; one of those settings; a task other than ``"multiclass"``; no store.
    """
    if store is None or key is None:
        raise UserError(
            "teacher_store= and key= go together: the store, and which documents a batch holds, as in "
            'key=lambda batch: batch["id"]'
        )
    given = [name for name, value in beside.items() if value is not None]
    if given:
        raise UserError(
            f"teacher_store= is asked in the teacher's place, and knows no {', '.join(given)}: leave it out"
        )
    if task != "multiclass":  # a sigmoid, or a distance, sees the constant
        raise UserError(
            "teacher_store= keeps logits up to a constant, which do for the softmax of task='multiclass' alone, found "
            f"task={task!r}: leave task= out, or take the teacher itself"
        )
    return StoredTeacher(store), StoredInput(key)


def check_logits_alone(teacher: nn.Module, methods: Sequence[str]) -> None:
    """Refuse methods that read features of a store.

    Args:
        teacher: any.
        methods: those that read the teacher's features, by name.

    Raises:
        UserError: the teacher is a store, and there are some.
    """
    if methods and isinstance(teacher, StoredTeacher):
        raise UserError(
            f"method {methods[0]} reads the teacher's features, and a token store has logits alone: take a method of "
            "logits, or the teacher itself"
        )


def _token_ids(call: StudentCall) -> Tensor | None:
    """The token ids (B, T) of a call."""
    found = call.kwargs.get("input_ids", call.args[0] if call.args else None)
    return found if isinstance(found, Tensor) and found.ndim == 2 and is_integer(found) else None


def _logits(call: StudentCall) -> Tensor | None:
    output = call.output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    return found if isinstance(found, Tensor) and found.ndim == 3 else None


def _positions(call: StudentCall, tokens: Tensor | None) -> Tensor | None:
    """(B, T) or (T,); below 0 where there is padding."""
    if tokens is None:
        logits = _logits(call)
        return None if logits is None else torch.arange(logits.shape[1])
    mask = call.kwargs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == tokens.shape:
        kept = mask.bool()
        return torch.where(kept, kept.cumsum(dim=1) - 1, -1)
    return torch.arange(tokens.shape[1], device=tokens.device)


def _moved(positions: Tensor | None, offsets: Tensor, documents: int) -> Tensor:
    """Positions (B, T) in documents within which the rows begin; padding stays what it is."""
    if positions is None:
        raise UserError(
            "the student's call has no token ids, nor logits of one position each, that say where offsets lead: call "
            "the student with token ids (B, T), or leave the offsets out of key="
        )
    if len(offsets) != documents:
        raise UserError(f"key= found {len(offsets)} offsets for {documents} documents: give one for each")
    if (offsets < 0).any():
        raise UserError(f"key=: offsets are positions from 0, found {int(offsets.min())}: say where each row begins")
    return torch.where(positions < 0, positions, positions + offsets.unsqueeze(1).to(positions.device))


def _many(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray | list | tuple)


def _are_whole(value: Any) -> bool:
    if isinstance(value, Tensor):
        return is_integer(value) and value.ndim <= 1
    return _many(value) and all(isinstance(each, int | np.integer) and not isinstance(each, bool) for each in value)


def _told(value: Any) -> str:
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else repr(value)[:60]
