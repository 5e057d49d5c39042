"""The basis in which a teacher's logits are kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-3
"""Of the hidden states' mean variance, added to the variance in each direction: a sample does not show all of them."""

WIDENED = 2**22
"""Entries that are widened at once."""

SMALLEST = 1e-5
"""Directions whose standard deviation is less than this, of the greatest one's, are noise of float32."""


@dataclass(frozen=True)
class Basis:
    r"""Directions in which a teacher's logits vary, the widest first.

    Softmax does not see a constant that is added to all logits: they are *centred*, :math:`x = t - \bar t`. Then

    .. math:: x \approx m + \sum_j c_j b_j, \qquad c_j = b_j \cdot (x - m) / \lVert b_j \rVert^2

    with m their mean over a sample and :math:`b_j` orthogonal, as long as the standard deviation of x along them: each
    coefficient has variance 1, so that all of them can be rounded alike.

    Attributes:
        mean: m, (V,).
        directions: (V, R), a column each.
    """

    mean: Tensor
    directions: Tensor

    @property
    def rank(self) -> int:
        """R."""
        return self.directions.shape[1]

    @property
    def varies(self) -> bool:
        """Whether the widest direction is more than float32's noise of the mean."""
        return bool(self.directions[:, 0].norm() > SMALLEST * self.mean.norm())

    def truncated(self, rank: int) -> Basis:
        """Of the widest directions alone."""
        return Basis(self.mean, self.directions[:, :rank].contiguous())

    def to(self, device: torch.device) -> Basis:
        """On a device."""
        return Basis(self.mean.to(device), self.directions.to(device))

    def projection(self) -> Tensor:
        """(V, R), from centred logits without their mean to coefficients."""
        return self.directions / self.directions.square().sum(dim=0)


def centred(logits: Tensor) -> Tensor:
    """Logits (..., V) without their mean over the vocabulary, float32 or wider."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits - logits.mean(dim=-1, keepdim=True)


def basis_of_head(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Basis:
    """All directions that a linear head has, by the singular vectors of the weight times the hidden states' spread.

    With all of them the coefficients are the hidden states in other coordinates, and nothing is left out.

    Args:
        hidden: (N, H), a sample of what the head reads.
        weight: (V, H).
        bias: (V,).
    """
    hidden, weight = hidden.double(), weight.float()
    weight = weight - weight.mean(dim=0)
    mean = hidden.mean(dim=0)
    covariance = torch.cov((hidden - mean).T, correction=0).reshape(len(mean), len(mean))
    spread, axes = torch.linalg.eigh(covariance)
    spread = spread.clamp(min=0) + RIDGE * spread.mean() + torch.finfo(torch.float32).tiny
    root = axes * spread.sqrt()  # the hidden states are mean + root · (what has variance 1)
    gram = root.T @ _products(weight.T) @ root
    variance, turned = torch.linalg.eigh(gram)
    kept = _kept(variance)
    directions = weight @ (root @ turned.flip(1)[:, :kept]).float()
    centre = weight @ mean.float()
    if bias is not None:
        centre = centre + bias.float() - bias.float().mean()
    return Basis(centre, directions)


def basis_of_rows(logits: Tensor) -> Basis:
    """The principal components of a sample of logits (N, V): at most N - 1 directions."""
    rows = centred(logits).float()
    mean = rows.mean(dim=0)
    rows = rows - mean
    variance, turned = torch.linalg.eigh(_products(rows) / len(rows))
    kept = _kept(variance)
    directions = rows.T @ (turned.flip(1)[:, :kept] / len(rows) ** 0.5).float()
    return Basis(mean, directions)


def _products(rows: Tensor) -> Tensor:
    """Inner products of rows (N, D), in float64: their small eigenvalues count too."""
    step = max(1, WIDENED // len(rows))
    found = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
    for start in range(0, rows.shape[1], step):
        wide = rows[:, start : start + step].double()
        found.addmm_(wide, wide.T)
    return found


def _kept(variance: Tensor) -> int:
    """How many of the variances, in ascending order, are more than noise; one at least."""
    return max(1, int((variance > SMALLEST**2 * variance[-1]).sum()))
