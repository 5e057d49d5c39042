"""A text of a store, and the number that it is known by."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor

from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import is_integer

Document = tuple[int, Tensor]
"""A key, and token ids (T,)."""


def document(key: Any, tokens: Any) -> Document:
    """What a user gives as one.

    Args:
        key: any kind of whole number; two tensors of one number, which hash apart, become one key.
        tokens: (T,).

    Raises:
        UserError: another key, or no token ids.
    """
    try:
        number = operator.index(key)
    except (TypeError, ValueError, RuntimeError):  # torch raises all of them
        number = None
    if number is None or not -(2**63) <= number < 2**63:
        raise UserError(
            f"the key of a document must be a whole number of 64 bits, found {key!r}: number the documents, and keep "
            "names elsewhere"
        )
    if not isinstance(tokens, Tensor) or tokens.ndim != 1 or not is_integer(tokens) or not len(tokens):
        told = (
            f"shape {tuple(tokens.shape)} of {tokens.dtype}"
            if isinstance(tokens, Tensor)
            else f"a {type(tokens).__name__}"
        )
        raise UserError(f"document {number}: expected token ids (T,), a tensor of whole numbers, found {told}")
    if (least := int(tokens.min())) < 0:
        raise UserError(f"document {number}: {least} is no token id: give the texts, not labels, and no padding")
    return number, tokens
