"""Write what a teacher gives for each token of each document."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from torch import Tensor

from ctkd_lightning._files import owned, user_path
from ctkd_lightning.errors import UserError
from ctkd_lightning.token_store._choice import Choice
from ctkd_lightning.token_store._document import document
from ctkd_lightning.token_store._manifest import MANIFEST, Manifest, check_sum, load_basis, save_basis
from ctkd_lightning.token_store._records import Encoder, token_marks
from ctkd_lightning.token_store._shards import (
    index_path,
    map_records,
    read_index,
    record_check,
    records_path,
    shard_name,
    write_shard,
)

SHARD_BYTES = 2**26
"""Of records, after which a shard is written: what a kill may cost."""


class TokenStoreWriter:
    """Fill the folder of a store; one that was stopped or damaged is gone on with.

    Shards are written whole, so that a kill costs the documents of one. Those that are there are compared with their
    check sums at the start, and damaged ones count as missing. One process at a time writes into a folder::

        with TokenStoreWriter(folder, choice, teacher=cache_key(network), tolerance=0.03) as writer:
            for key, tokens in documents:
                if not writer.has(key, tokens):
                    writer.write(key, tokens, network(tokens[None]).logits[0])

    The store is complete at the end of the block, unless an error ends it.

    Args:
        folder: of the store, made where it is missing.
        choice: of :func:`~ctkd_lightning.token_store._choice.choose`; ``None`` to go on with a store.
        teacher: its fingerprint.
        tolerance: that the choice was made for; ``None`` where it was not.
        shard_bytes: of records in memory, after which a shard is written.

    Raises:
        UserError: a store of another teacher or with other settings; no store to go on with; another process writes
            into the folder.
    """

    def __init__(
        self,
        folder: str | Path,
        choice: Choice | None = None,
        *,
        teacher: str,
        tolerance: float | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.folder = user_path(folder)
        self._given, self._teacher, self._tolerance, self._shard_bytes = choice, teacher, tolerance, shard_bytes
        self._stack = ExitStack()

    def __enter__(self) -> TokenStoreWriter:
        with ExitStack() as stack:
            stack.enter_context(owned(self.folder))
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._stack:
            if kind is None:
                self._complete()

    def _start(self) -> None:
        exists = (self.folder / MANIFEST).exists()
        if not exists and self._given is None:
            raise UserError(f"{self.folder} has no token store to go on with: give the choice of its layout")
        if exists:
            self.manifest = Manifest.read(self.folder)
            self._check_same()
            basis = load_basis(self.folder, self.manifest)
        else:
            assert self._given is not None
            basis = self._given.encoder.basis
            self.manifest = self._described(self._given, save_basis(basis, self.folder))
            self.manifest.write(self.folder)
        self._encoder = Encoder(basis, self.manifest.layout)
        self._waiting: dict[int, np.ndarray] = {}
        self._waiting_bytes = 0
        self._written: dict[int, tuple[str, int, int]] = {}  # shard, start and length by key
        self._maps: dict[str, np.ndarray] = {}
        self._names: list[str] = []
        for path in sorted(self.folder.glob(index_path(self.folder, "*").name)):
            self._take(path.name.partition(".")[0])

    def _described(self, choice: Choice, basis: str) -> Manifest:
        chosen = choice.candidate
        layout = chosen.layout
        return Manifest(
            teacher=self._teacher,
            vocabulary=layout.vocabulary,
            rank=layout.rank,
            bits=layout.bits,
            top=layout.top,
            whole=chosen.whole,
            tolerance=self._tolerance,
            errors=chosen.errors,
            measured_on=choice.measured_on,
            bytes_per_token=layout.nbytes,
            basis=basis,
        )

    def _check_same(self) -> None:
        found = self.manifest
        if found.teacher != self._teacher:
            raise UserError(
                f"the token store {self.folder} is of another teacher ({found.teacher}, this one is {self._teacher}): "
                "write this one's into another folder"
            )
        if found.tolerance != self._tolerance or (self._given and self._given.candidate.layout != found.layout):
            raise UserError(
                f"the token store {self.folder} was begun with tolerance={found.tolerance}, rank={found.rank} and "
                f"top={found.top}: go on with these, or write into another folder"
            )

    def _take(self, name: str) -> None:
        """Count the documents of a shard; a damaged one is removed, and written anew from its sound documents."""
        try:
            index, records = read_index(self.folder, name), map_records(self.folder, name, self.manifest.layout.dtype)
        except UserError:
            self._remove(name)
            return
        places = [(int(key), int(start), int(length)) for key, start, length, _ in index]
        sound = [
            len(found := records[start : start + length]) == length and record_check(found) == check
            for (_, start, length), check in zip(places, index["check"], strict=True)
        ]
        if all(sound):
            self._names.append(name)
            self._maps[name] = records
            self._written |= {key: (name, start, length) for key, start, length in places}
            return
        for (key, start, length), good in zip(places, sound, strict=True):
            if good:
                self._waiting[key] = np.array(records[start : start + length])
        self._remove(name)

    def _remove(self, name: str) -> None:
        for path in (index_path(self.folder, name), records_path(self.folder, name)):
            path.unlink(missing_ok=True)

    def has(self, key: int, tokens: Tensor) -> bool:
        """Whether the document is there.

        Args:
            key: of the document.
            tokens: (T,), its text.

        Raises:
            UserError: it is there with another text, or is none.
        """
        key, tokens = document(key, tokens)
        found = self._records(key)
        if found is None:
            return False
        if len(found) != len(tokens) or (found["token"] != token_marks(tokens)).any():
            raise UserError(
                f"document {key} is in the token store {self.folder} with another text: write these texts into another "
                "folder, or give them other keys"
            )
        return True

    def write(self, key: int, tokens: Tensor, logits: Tensor) -> None:
        """Add a document; one that is there is left as it is.

        Args:
            key: of the document, a whole number.
            tokens: (T,), its text.
            logits: (T, V), what the teacher gave after each token.

        Raises:
            UserError: the document is there with another text, or is none; logits of another shape, or not finite.
        """
        key, tokens = document(key, tokens)
        if self.has(key, tokens):
            return
        expected = (len(tokens), self.manifest.vocabulary)
        if tuple(logits.shape) != expected:
            raise UserError(f"document {key} has logits of shape {tuple(logits.shape)}, expected {expected}")
        self._waiting[key] = self._encoder(logits, tokens)
        self._waiting_bytes += self._waiting[key].nbytes
        if self._waiting_bytes >= self._shard_bytes:
            self._flush()

    def _records(self, key: int) -> np.ndarray | None:
        if key in self._waiting:
            return self._waiting[key]
        if key not in self._written:
            return None
        name, start, length = self._written[key]
        return self._maps[name][start : start + length]

    def _flush(self) -> None:
        if not self._waiting:
            return
        name = shard_name(1 + max((int(name) for name in self._names), default=-1))
        write_shard(self.folder, name, list(self._waiting), list(self._waiting.values()))
        self._waiting, self._waiting_bytes = {}, 0
        self._take(name)

    def _complete(self) -> None:
        self._flush()
        if not self._written:
            raise UserError("no document was given to the token store: give some")
        self.manifest.complete = True
        self.manifest.documents = len(self._written)
        self.manifest.tokens = sum(length for _, _, length in self._written.values())
        self.manifest.indices = {name: check_sum(index_path(self.folder, name)) for name in self._names}
        self.manifest.write(self.folder)
