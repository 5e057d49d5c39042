"""A pass over documents that fills a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import starmap
from pathlib import Path

import torch
from torch import Tensor, nn

from ctkd_lightning._files import user_path
from ctkd_lightning._modes import left_as_it_was
from ctkd_lightning._store_settings import check_store_settings
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import Pick
from ctkd_lightning.teacher_cache.key import cache_key
from ctkd_lightning.token_store._asked import AskedModel
from ctkd_lightning.token_store._choice import Choice, Sample, choose
from ctkd_lightning.token_store._document import Document, document
from ctkd_lightning.token_store._manifest import MANIFEST, Manifest
from ctkd_lightning.token_store.writer import TokenStoreWriter

FITTED, MEASURED = 4096, 2048
"""Tokens to which the basis is fitted, and on which the errors are measured; fewer where the vocabulary is large."""

LOGITS_HELD = 2**26
"""Of all sampled tokens together."""


def write_token_store(
    folder: str | Path,
    teacher: nn.Module,
    documents: Sequence[Document],
    *,
    tolerance: float = 0.03,
    top: int = 16,
    rank: int | None = None,
    batch_size: int = 8,
    teacher_logits: Pick | None = None,
    announce: Callable[[Choice], None] = lambda choice: None,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Manifest:
    """Ask a teacher for all documents, and keep what it gives; go on where an earlier pass was stopped.

    The number of coefficients is the least whose errors are within the tolerance on tokens that the basis has not seen,
    at τ = 1, 4 and 16, in KL and its gradients: see :func:`~ctkd_lightning.token_store._choice.choose`.

    Args:
        folder: of the store.
        teacher: from token ids (B, T) to logits (B, T, V). Its last linear layer, if it gives the logits, makes the
            basis; else a sample of its logits does. Asked in eval mode, and left as it was.
        documents: key and token ids of each.
        tolerance: the largest relative error that is let pass.
        top: largest logits that are kept exactly.
        rank: number of coefficients, whatever their errors.
        batch_size: documents that the teacher is asked for at once, as long as they are of one length.
        teacher_logits: from the teacher's output to its logits, where that is neither a tensor nor has ``.logits``.
        announce: told of the choice, before anything is written.
        progress: told of tokens that are there.

    Returns:
        What the store says of itself.

    Raises:
        UserError: settings out of range; what is no document, two of one key, fewer than two; a tolerance that cannot
            be kept; a store of another teacher, other settings or other texts in the folder.
    """
    check_store_settings(tolerance, top, rank, batch_size)
    with torch.no_grad(), left_as_it_was(teacher):
        asked, fingerprint = AskedModel(teacher, teacher_logits), cache_key(teacher)
        choice = None
        if not (user_path(folder) / MANIFEST).exists():
            choice = choose(_sample(asked, documents, batch_size), tolerance=tolerance, top=top, rank=rank)
            announce(choice)
        kept = tolerance if rank is None else None
        with TokenStoreWriter(folder, choice, teacher=fingerprint, tolerance=kept) as writer:
            _check_layout(writer.manifest, top, rank)
            for batch in _batches(_missing(writer, documents, progress), batch_size):
                logits = asked(torch.stack([tokens for _, tokens in batch]))
                for (key, tokens), of_document in zip(batch, logits, strict=True):
                    writer.write(key, tokens, of_document)
                    progress(len(tokens))
    return writer.manifest


def _check_layout(found: Manifest, top: int, rank: int | None) -> None:
    if found.top != top or rank not in (None, found.rank):
        raise UserError(
            f"the token store there was begun with top={found.top} and rank={found.rank}: go on with these, or write "
            "into another folder"
        )


def _missing(
    writer: TokenStoreWriter, documents: Iterable[Document], progress: Callable[[int], None]
) -> Iterator[Document]:
    seen: set[int] = set()
    for key, tokens in starmap(document, documents):
        if key in seen:
            raise UserError(f"two documents have the key {key}: give each its own")
        seen.add(key)
        if writer.has(key, tokens):
            progress(len(tokens))
        else:
            yield key, tokens


def _batches(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    """Some documents of one length at a time, in their order."""
    batch: list[Document] = []
    for key, tokens in documents:
        if batch and (len(batch) == size or len(batch[0][1]) != len(tokens)):
            yield batch
            batch = []
        batch.append((key, tokens))
    if batch:
        yield batch


def _sample(asked: AskedModel, documents: Sequence[Document], batch_size: int) -> Sample:
    """Tokens of documents from all over the data; those that are measured are of other documents than the fitted."""
    if len(documents) < 2:
        raise UserError(
            f"found {len(documents)} document(s): a store needs two at least, since its errors are measured on others "
            "than those its basis is fitted to"
        )
    logits, hidden = asked.with_hidden(document(*documents[0])[1][None])
    head = asked.head if hidden is not None else None
    vocabulary = logits.shape[-1]
    fitted_tokens = FITTED if head is not None else min(FITTED, max(64, LOGITS_HELD // vocabulary))
    measured_tokens = min(MEASURED, max(64, LOGITS_HELD // 2 // vocabulary))
    spread = _spread(len(documents))
    measured = _gather(asked, (documents[i] for i in spread[::2]), measured_tokens, batch_size, hidden=False)
    fitted = _gather(asked, (documents[i] for i in spread[1::2]), fitted_tokens, batch_size, hidden=head is not None)
    return Sample(measured[0], measured[1], fitted[1], head, all_read=len(fitted[1]) < fitted_tokens)


def _spread(count: int) -> list[int]:
    """All numbers below ``count``, in an order whose every beginning is spread over them."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(count, generator=generator).tolist()


def _gather(
    asked: AskedModel, documents: Iterable[Document], tokens: int, batch_size: int, *, hidden: bool
) -> tuple[Tensor, Tensor]:
    """Token ids, and what the teacher gave for them: its logits, or what its head read."""
    ids, found, count = [], [], 0
    for batch in _batches(starmap(document, documents), batch_size):
        text = torch.stack([each for _, each in batch])
        if hidden:
            given = asked.with_hidden(text)[1]
            assert given is not None
        else:
            given = asked(text)
        ids.append(text.flatten())
        found.append(given.flatten(0, 1).float())
        count += text.numel()
        if count >= tokens:
            break
    return torch.cat(ids)[:tokens], torch.cat(found)[:tokens]
