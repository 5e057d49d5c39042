"""The texts of a store: rows of a file of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ctkd_lightning._reading import check_regular
from ctkd_lightning.errors import UserError
from ctkd_lightning.token_store._document import Document


class RowsOfTokens(Sequence[Document]):
    """A document a row.

    Args:
        tokens: (N, T), whole numbers; may be in a file.
        keys: (N,); the rows' numbers by default.
    """

    def __init__(self, tokens: np.ndarray, keys: np.ndarray | None = None) -> None:
        self._tokens, self._keys = tokens, keys

    @property
    def tokens(self) -> int:
        """Number of all of them."""
        return int(self._tokens.size)

    def __len__(self) -> int:
        return len(self._tokens)

    @overload
    def __getitem__(self, row: int) -> Document: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Document]: ...

    def __getitem__(self, row: int | slice) -> Document | Sequence[Document]:
        if isinstance(row, slice):
            return [self[number] for number in range(len(self))[row]]
        text = torch.from_numpy(np.array(self._tokens[row], dtype=np.int64))
        return int(row if self._keys is None else self._keys[row]), text


def read_documents(path: Path) -> RowsOfTokens:
    """The documents of a file.

    Raises:
        UserError: it cannot be read, or has no token ids.
    """
    tokens, keys = _read(path)
    if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer) or not tokens.size:
        raise UserError(f"tokens: {path} has shape {tokens.shape} of {tokens.dtype}: expected whole numbers (N, T)")
    if tokens.min() < 0:
        raise UserError(f"tokens: {path} has ids below 0, such as {tokens.min()}: give the texts, not the labels")
    if keys is not None and (keys.shape != tokens.shape[:1] or not np.issubdtype(keys.dtype, np.integer)):
        raise UserError(
            f"tokens: keys in {path} have shape {keys.shape} of {keys.dtype}: expected a whole number for each of the "
            f"{len(tokens)} rows"
        )
    return RowsOfTokens(tokens, keys)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        check_regular(path)
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False), None
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, ValueError, EOFError, SafetensorError) as error:
        raise UserError(f"tokens: {path} cannot be read ({error}): give a whole .npy or .safetensors file") from error
    if "input_ids" not in tensors:
        found: Any = ", ".join(tensors) or "nothing"
        raise UserError(f"tokens: {path} has {found}: expected input_ids (N, T), and keys (N,) if there are any")
    keys = tensors.get("keys")
    return tensors["input_ids"].numpy(), None if keys is None else keys.numpy()
