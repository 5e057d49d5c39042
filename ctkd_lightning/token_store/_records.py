"""What is kept of one token, as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ctkd_lightning.errors import UserError
from ctkd_lightning.token_store._basis import Basis, centred

Bits = Literal[8, 16]


@dataclass(frozen=True)
class Layout:
    """The fields of a record.

    Attributes:
        rank: number of coefficients.
        top: number of logits that are kept exactly.
        vocabulary: V.
        bits: of a coefficient.
    """

    rank: int
    top: int
    vocabulary: int
    bits: Bits = 8

    @property
    def dtype(self) -> np.dtype:
        """Coefficients and their largest number's meaning; the largest logits beyond them; the token that was read."""
        return np.dtype(
            [
                ("coefficients", f"<i{self.bits // 8}", (self.rank,)),
                ("largest", "<f2"),
                ("residual", "<f2", (self.top,)),
                ("ids", "<u2" if self.vocabulary <= 2**16 else "<u4", (self.top,)),
                ("token", "<u2"),
            ]
        )

    @property
    def nbytes(self) -> int:
        """Bytes a token."""
        return self.dtype.itemsize


class Encoder:
    r"""From logits to records.

    The coefficients of the centred logits are whole numbers times a scale of the token's own. The k largest logits are
    kept beside them, as what is to be added to the coefficients' sum: they come out exactly, to float16 of a small
    number.

    Args:
        basis: with as many directions as the layout has coefficients.
        layout: of the records.
    """

    def __init__(self, basis: Basis, layout: Layout) -> None:
        self.basis, self.layout = basis, layout
        self._projection = basis.projection()

    def __call__(self, logits: Tensor, tokens: Tensor) -> np.ndarray:
        """The records of logits (N, V) that the teacher gave after reading tokens (N,).

        Raises:
            UserError: logits that are not finite, or too large.
        """
        if logits.device != self.basis.mean.device:
            self.basis = self.basis.to(logits.device)
            self._projection = self.basis.projection()
        x = centred(logits).to(self.basis.mean.dtype)
        check_finite(x)
        above, ids = x.topk(self.layout.top, dim=1)
        whole, largest = self._rounded((x - self.basis.mean) @ self._projection)
        residual = above - self._at(whole * (largest.float() / largest_whole(self.layout.bits)), ids)
        records = np.empty(len(x), dtype=self.layout.dtype)
        records["coefficients"] = whole.cpu().numpy()
        records["largest"] = largest.squeeze(1).cpu().numpy()
        records["residual"] = residual.cpu().numpy()
        records["ids"] = ids.cpu().numpy()
        records["token"] = token_marks(tokens)
        if not np.isfinite(records["largest"]).all() or not np.isfinite(records["residual"]).all():
            if x.abs().max() > torch.finfo(torch.half).max:
                raise UserError("the teacher's logits are beyond the range of float16, about 65,000: scale them down")
            raise UserError(
                "a token's logits are over 65,000 times as far from the sample's mean as those of the sample: give "
                "more documents, which vary as these do"
            )
        return records

    def _rounded(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Whole numbers, and the coefficient that the largest whole number stands for."""
        most = largest_whole(self.layout.bits)
        half = torch.finfo(torch.half)
        largest = coefficients.abs().amax(dim=1, keepdim=True)
        largest = (largest * (1 + half.eps) + half.smallest_normal).half()  # rounded up, or it would be cut off
        return (coefficients * (most / largest.float())).round(), largest

    def _at(self, coefficients: Tensor, ids: Tensor) -> Tensor:
        """What the coefficients (N, r) say of the logits of ids (N, k)."""
        return self.basis.mean[ids] + torch.einsum("nr,nkr->nk", coefficients, self.basis.directions[ids])


def check_finite(x: Tensor) -> None:
    """Refuse what a teacher gave, logits or hidden states, if not all of it is finite."""
    if not x.isfinite().all():
        raise UserError(
            "the teacher's logits are NaN or infinite for some tokens: look for broken inputs or weights, and let "
            "the teacher give no -inf for tokens that it never says (or cut them off the vocabulary)"
        )


def largest_whole(bits: int) -> int:
    """The largest of the whole numbers of so many bits."""
    return int(2 ** (bits - 1) - 1)


def token_marks(tokens: Tensor) -> np.ndarray:
    """The last 16 bits of token ids (N,): a text is known by them."""
    return (tokens.cpu().numpy().astype(np.int64) & 0xFFFF).astype(np.uint16)
