"""From tokens or labels at their own places to what each position of a causal language model predicts."""

from __future__ import annotations

import torch
from torch import Tensor

from ctkd_lightning.errors import UserError


def next_tokens(
    labels: Tensor,
    *,
    mask: Tensor | None = None,
    documents: Tensor | None = None,
    position_ids: Tensor | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """The target of each position of a causal language model: the next token.

    Collators give labels at the tokens' own places, and the model's loss moves them by one; logits stay where they are.
    A distillation compares logits of the same place, so that its target, and the mask that follows from it, are the
    *moved* labels. A student's scores at the last token of a prompt predict the first of the answer, and count; those
    at the last token of the answer predict nothing.

    Args:
        labels: (B, T) or (T,), tokens, or labels with ``ignore_index`` where the token is not to be learned: prompts,
            padding.
        mask: the same shape, true or 1 where there is a token and no padding, as ``attention_mask``: neither padding
            nor what would be predicted from it counts, on whatever side it is.
        documents: the same shape, a number for each of several documents that are packed into a row: the last token of
            one does not predict the first of the next.
        position_ids: the same by the tokens' positions within their documents, which begin again at 0.
        ignore_index: what marks a position that predicts nothing.

    Returns:
        The same shape as the labels, and their type, or int64 where that cannot hold ``ignore_index``.

    Raises:
        UserError: shapes that differ, or labels that are no whole numbers.

    Example:
        >>> next_tokens(torch.tensor([[-100, -100, 7, 8]]))  # a prompt of two tokens, an answer of two
        tensor([[-100,    7,    8, -100]])
        >>> next_tokens(torch.tensor([[5, 6, 7, 8]]), documents=torch.tensor([[0, 0, 1, 1]]))
        tensor([[   6, -100,    8, -100]])
    """
    if labels.is_floating_point() or labels.dtype == torch.bool or not labels.ndim:
        raise UserError(
            f"labels must be whole numbers (B, T), found {labels.dtype} of shape {tuple(labels.shape)}: pass the "
            "tokens' numbers"
        )
    given = {"mask": mask, "documents": documents, "position_ids": position_ids}
    for name, value in given.items():
        if value is not None and value.shape != labels.shape:
            raise UserError(
                f"{name} has shape {tuple(value.shape)} and labels {tuple(labels.shape)}: pass one entry for each token"
            )
    holds = torch.iinfo(labels.dtype)
    if not holds.min <= ignore_index <= holds.max:  # bytes, of which -100 would be 156
        labels = labels.long()
    target = torch.full_like(labels, ignore_index)
    following = labels[..., 1:]
    kept = torch.ones_like(following, dtype=torch.bool)
    if mask is not None:
        kept = kept & (mask[..., :-1] != 0) & (mask[..., 1:] != 0)
    if documents is not None:
        kept = kept & (documents[..., :-1] == documents[..., 1:])
    if position_ids is not None:
        kept = kept & (position_ids[..., 1:] != 0)
    target[..., :-1] = torch.where(kept, following, ignore_index)
    return target
