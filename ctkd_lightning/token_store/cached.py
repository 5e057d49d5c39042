"""A store in the place of a teacher that is there: of a data module's texts, by their index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ctkd_lightning._scores.batches import read_batch
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import NetworkOutput
from ctkd_lightning.teacher_cache.key import cache_key
from ctkd_lightning.token_store._document import Document
from ctkd_lightning.token_store._stored import StoredTokens
from ctkd_lightning.token_store.store import TokenStore
from ctkd_lightning.token_store.writing import write_token_store


class CachedTexts:
    """The teacher's logits for the texts of a batch, by ``index``, from a store that has them all.

    Args:
        store: whose documents are the texts, by their position in the training set.
    """

    def __init__(self, store: TokenStore) -> None:
        self.store = store

    def __call__(self, tokens: Tensor, batch: Any) -> NetworkOutput:
        """The logits (B, T, V), up to a constant of each position; as :meth:`stored`."""
        return NetworkOutput(self.stored(tokens, batch).logits())

    def stored(self, tokens: Tensor, batch: Any) -> StoredTokens:
        """What the store has of a batch.

        Args:
            tokens: (B, T), the texts, which must be the store's.
            batch: of a data module.

        Raises:
            UserError: a batch that does not say which texts it holds, or other texts.
        """
        index = read_batch(batch).index
        if index is None:
            raise UserError(
                "the store of the teacher's outputs needs batches (tokens, target, index), found one without the last: "
                "use the data modules of ctkd_lightning.data, or no teacher cache"
            )
        return self.store.at(index, tokens=tokens, device=tokens.device)


def store_texts(
    folder: Path,
    name: str,
    teacher: nn.Module,
    texts: Sequence[Document],
    *,
    batch_size: int,
    write: bool = True,
    progress: Callable[[int], None] = lambda tokens: None,
) -> TokenStore:
    """The store of a teacher and texts, written first where it is missing, unfinished or damaged.

    Args:
        folder: of all stores.
        name: of the texts.
        teacher: from tokens (B, T) to logits (B, T, V).
        texts: by their position in the training set.
        batch_size: texts that the teacher is asked for at once.
        write: whether this process does; else it must be there.
        progress: told of tokens that are there.

    Raises:
        UserError: as :func:`~ctkd_lightning.token_store.write_token_store`.
    """
    own = folder / f"{name}-{cache_key(teacher)[:16]}"
    if write:
        write_token_store(own, teacher, texts, batch_size=batch_size, progress=progress)
    return TokenStore(own, teacher=teacher)
