"""Read what a teacher gave for each token of each document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctkd_lightning._files import user_path
from ctkd_lightning.errors import UserError
from ctkd_lightning.teacher_cache.key import cache_key
from ctkd_lightning.token_store._basis import Basis
from ctkd_lightning.token_store._manifest import Manifest, load_basis
from ctkd_lightning.token_store._records import token_marks
from ctkd_lightning.token_store._shards import check_shard, map_records, read_index, record_check
from ctkd_lightning.token_store._stored import StoredTokens, stored_tokens


class TokenStore:
    """A teacher's logits by document and position, right at every temperature.

    What is kept of a token are some coefficients of its centred logits in a basis that all tokens share, and the
    largest logits exactly: see :class:`~ctkd_lightning.token_store.StoredTokens`. A folder is written by
    :class:`~ctkd_lightning.token_store.TokenStoreWriter` or ``python -m ctkd_lightning.store``, mapped into memory, and
    read by any number of processes. The records of a document are compared with their check sum when it is first asked
    for.

    Args:
        folder: of the store.
        teacher: that it must be of: the network, or its fingerprint; any by default.

    Attributes:
        manifest: what the store says of itself: sizes, and the errors that were measured when it was made.

    Raises:
        UserError: no store, an unfinished or damaged one, or one of another teacher.
    """

    def __init__(self, folder: str | Path, *, teacher: nn.Module | str | None = None) -> None:
        self.folder = user_path(folder)
        self.manifest = Manifest.read(self.folder)
        if not self.manifest.complete:
            raise UserError(
                f"the token store {self.folder} is not finished: start its writer again, which goes on where it stopped"
            )
        if isinstance(teacher, nn.Module):
            teacher = cache_key(teacher)
        if teacher is not None and teacher != self.manifest.teacher:
            raise UserError(
                f"the token store {self.folder} is of another teacher ({self.manifest.teacher}, asked for {teacher}): "
                "give the store of this one, or write one"
            )
        self._open()

    def _open(self) -> None:
        names = sorted(self.manifest.indices)
        for name in names:
            check_shard(self.folder, name, self.manifest.indices[name])
        indices = [read_index(self.folder, name) for name in names]
        self._names = names
        documents = np.concatenate(indices)
        shards = np.repeat(np.arange(len(names)), [len(index) for index in indices])
        order = np.argsort(documents["key"], kind="stable")
        self._documents, self._shards = documents[order], shards[order]
        self._records: dict[int, np.ndarray] = {}
        self._checked = np.zeros(len(documents), dtype=bool)
        self._bases = {torch.device("cpu"): load_basis(self.folder, self.manifest)}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    @property
    def vocabulary(self) -> int:
        """V, the number of logits."""
        return self.manifest.vocabulary

    @property
    def keys(self) -> Tensor:
        """The documents, int64, ascending."""
        return torch.from_numpy(self._documents["key"].copy())

    def logits(self, keys: Any, positions: Any = None, *, device: torch.device | str = "cpu") -> Tensor:
        """The teacher's logits (..., V), float32, up to a constant of each position; as :meth:`at`."""
        return self.at(keys, positions, device=device).logits()

    def at(
        self,
        keys: Tensor | Sequence[int],
        positions: Tensor | Sequence[int] | None = None,
        *,
        tokens: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> StoredTokens:
        """What the store has of some positions of some documents.

        Args:
            keys: (B,), the documents.
            positions: (T,), the same ones of each, or (B, T); below 0 for padding, whose logits mean nothing. All
                positions of the documents by default, which then must have the same number of them.
            tokens: (B, T), what stands there: another text is refused.
            device: where the logits will be.

        Returns:
            Of shape (B, T, V).

        Raises:
            UserError: a document or position that the store does not have, or that is no whole number; another text;
                damaged records.
        """
        wanted = _whole("keys", keys).reshape(-1)
        numbers = self._find(wanted)
        places = self._places(numbers, positions)
        marks = None if tokens is None else token_marks(tokens).reshape(tokens.shape)
        if marks is not None and marks.shape != places.shape:
            raise UserError(
                f"tokens have shape {marks.shape}, and {places.shape} positions are asked for: give one for each"
            )
        records = np.zeros(places.shape, dtype=self.manifest.layout.dtype)
        for row, number in enumerate(numbers):
            inside = places[row] >= 0
            found = self._document(number)[places[row, inside]]
            records[row, inside] = found
            if marks is not None and (other := found["token"] != marks[row, inside]).any():
                raise UserError(
                    f"document {wanted[row]} has another text in the token store {self.folder}, first at position "
                    f"{places[row, inside][other][0]}: give the key of the same text and tokeniser, or write a store "
                    "of this data"
                )
        return stored_tokens(records, self._basis(torch.device(device)))

    def _basis(self, device: torch.device) -> Basis:
        if device not in self._bases:
            self._bases[device] = self._bases[torch.device("cpu")].to(device)
        return self._bases[device]

    def _find(self, keys: np.ndarray) -> np.ndarray:
        """The numbers of documents."""
        known = self._documents["key"]
        numbers = np.searchsorted(known, keys).clip(max=len(known) - 1)
        missing = keys[known[numbers] != keys]
        if len(missing):
            raise UserError(
                f"document {missing[0]} is not in the token store {self.folder}, which has {len(known):,} with keys "
                f"from {known[0]} to {known[-1]}: key= must say which documents a batch holds"
            )
        return numbers

    def _places(self, numbers: np.ndarray, positions: Any) -> np.ndarray:
        """Positions (B, T) within the documents."""
        lengths = self._documents["length"][numbers]
        if positions is None:
            if len(set(lengths.tolist())) > 1:
                raise UserError(
                    f"the documents have {lengths.min()} to {lengths.max()} positions: say which ones of each are meant"
                )
            positions = np.arange(lengths[0] if len(lengths) else 0)
        places = _whole("positions", positions)
        try:
            places = np.broadcast_to(places, (len(numbers), places.shape[-1] if places.ndim else 1))
        except ValueError:
            raise UserError(
                f"positions have shape {places.shape} for {len(numbers)} documents: expected (T,) or (B, T)"
            ) from None
        beyond = (places >= lengths[:, None]).any(axis=1)
        if beyond.any():
            row = int(beyond.argmax())
            raise UserError(
                f"document {self._documents['key'][numbers[row]]} has {lengths[row]} positions in the token store "
                f"{self.folder}, and position {places[row].max()} is asked for: cut the batch as the store's texts, "
                "or write a store of these"
            )
        return places

    def _document(self, number: int) -> np.ndarray:
        """The records of a document, which are compared with their check sum the first time."""
        shard, place = int(self._shards[number]), self._documents[number]
        if shard not in self._records:
            self._records[shard] = map_records(self.folder, self._names[shard], self.manifest.layout.dtype)
        records = self._records[shard][place["start"] : place["start"] + place["length"]]
        if not self._checked[number]:
            whole = len(records) == place["length"] and record_check(records) == place["check"]
            if not whole or (records["ids"] >= self.vocabulary).any():  # ids: a file of someone else's
                raise UserError(
                    f"document {place['key']} is damaged in the token store {self.folder}, shard {self._names[shard]}: "
                    "start its writer again, which writes damaged documents anew"
                )
            self._checked[number] = True
        return records


def _whole(what: str, values: Any) -> np.ndarray:
    """Whole numbers as int64."""
    try:
        found = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except ValueError:
        raise UserError(f"{what} must be whole numbers, found rows of different lengths: give one array") from None
    if found.size and not np.issubdtype(found.dtype, np.integer):
        raise UserError(f"{what} must be whole numbers, found {found.dtype}: give the store's own, as integers")
    if found.size and found.max() > np.iinfo(np.int64).max:
        raise UserError(f"{what} must be whole numbers of 64 bits, found {found.max()}: give the store's own")
    return found.astype(np.int64)
