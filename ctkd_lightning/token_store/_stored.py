"""The teacher's logits for some positions, as a store has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctkd_lightning.methods._checks import no_autocast
from ctkd_lightning.methods._linear_divergence import Chunks, head_logits
from ctkd_lightning.token_store._basis import Basis


@dataclass(frozen=True)
class StoredTokens:
    r"""Logits that do not exist yet.

    .. math:: t_{iv} = m_v + s_i \sum_j c_{ij} b_{vj} + [v \in K_i] \, e_{iv}

    up to a constant of each position, which softmax does not see.

    Attributes:
        coefficients: c, (..., r), whole numbers.
        scale: s, (..., 1).
        residual: e, (..., k), for
        ids: K, (..., k), those that the teacher scored highest.
        basis: m and b, shared.
    """

    coefficients: Tensor
    scale: Tensor
    residual: Tensor
    ids: Tensor
    basis: Basis

    @property
    def shape(self) -> torch.Size:
        """Of the logits, (..., V)."""
        return torch.Size((*self.coefficients.shape[:-1], len(self.basis.mean)))

    def first(self, count: int) -> StoredTokens:
        """Those of the first documents."""
        coefficients, scale, residual, ids = (
            x[:count] for x in (self.coefficients, self.scale, self.residual, self.ids)
        )
        return StoredTokens(coefficients, scale, residual, ids, self.basis)

    def logits(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """All of them, (..., V): for small vocabularies."""
        if not self.coefficients.shape[:-1].numel():
            return self.scale.new_empty(self.shape, dtype=dtype)
        with no_autocast(self.scale):
            return next(self.chunks(dtype)(2**62)).view(self.shape)

    def chunks(self, dtype: torch.dtype = torch.float32, kept: Tensor | None = None) -> Chunks:
        """Some rows at a time, in one buffer that each chunk overwrites.

        Args:
            dtype: in which they are computed.
            kept: numbers of the positions that count, all by default.
        """
        coefficients, scale, residual, ids = (
            x.flatten(0, -2) if kept is None else x.flatten(0, -2).index_select(0, kept)
            for x in (self.coefficients, self.scale, self.residual, self.ids)
        )

        def of_rows(step: int) -> Iterator[Tensor]:
            coded = coefficients.to(dtype) * scale.to(dtype)
            mean = self.basis.mean.to(dtype)
            first = 0
            for logits in head_logits(coded, self.basis.directions, mean, dtype, step):
                rows = slice(first, first + len(logits))
                yield logits.scatter_add_(1, ids[rows], residual[rows].to(dtype))
                first = rows.stop

        return of_rows


def stored_tokens(records: np.ndarray, basis: Basis) -> StoredTokens:
    """What records (...) say, on the basis's device."""

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(records[name])).to(basis.mean.device)

    ids = torch.from_numpy(records["ids"].astype(np.int64)).to(basis.mean.device)
    coefficients = tensor("coefficients")
    scale = tensor("largest").float().unsqueeze(-1) / torch.iinfo(coefficients.dtype).max
    return StoredTokens(coefficients, scale, tensor("residual"), ids, basis)
