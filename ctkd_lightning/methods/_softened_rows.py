"""The divergence of some softened rows and its derivatives, by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from ctkd_lightning.temperature._softening import bounded_below

RUN = 256
"""Entries that are summed in their own type."""


class SoftenedRows:
    r"""KL(p ‖ q) of each row, and its derivatives.

    .. math::
        K = \sum_c p_c d_c, \qquad d = \log p - \log q, \qquad
        q = \mathrm{softmax}(x), \quad p = \mathrm{softmax}(y), \qquad x = s / \tau, \quad y = t / \tau'

    Entries are of the given type, their sums float64: at large τ the terms of τ's derivative nearly cancel, and what
    remains would be an error that all entries of a row share, as of the logarithm of their sum. The entries' own errors
    are independent and average out.

    Args:
        student: logits s, (N, C).
        teacher: logits t, the same shape.
        student_tau: τ, (N, 1).
        teacher_tau: τ', the same shape.
        dtype: of the entries.

    Attributes:
        divergence: K, (N,), float64.
    """

    def __init__(
        self, student: Tensor, teacher: Tensor, student_tau: Tensor, teacher_tau: Tensor, dtype: torch.dtype
    ) -> None:
        self._student_tau, self._teacher_tau = student_tau, teacher_tau
        self._x, self._e_x, self._sum_x = _exponentials(student, student_tau, dtype)
        self._y, self._e_y, self._sum_y = _exponentials(teacher, teacher_tau, dtype)
        self._e_d = (self._y - self._x).mul_(self._e_y)
        self._mean_d = _total(self._e_d) / self._sum_y
        self.divergence = (self._mean_d + (self._sum_x / self._sum_y).log()).squeeze(1)

    def by_student_logits(self, factor: Tensor, out: Tensor) -> None:
        r"""Write f / τ · (q - p), the derivative of f K with respect to the student's logits.

        Args:
            factor: f, (N, 1).
            out: (N, C).
        """
        factor = factor / self._student_tau
        q, p = (factor / total for total in (self._sum_x, self._sum_y))
        torch.mul(self._e_x, q.to(out.dtype), out=out).addcmul_(self._e_y, p.to(out.dtype), value=-1)

    def by_student_tau(self) -> Tensor:
        r""":math:`-\frac{1}{\tau} \sum_c (q_c - p_c) x_c`, (N, 1)."""
        under_q, under_p = _total(self._e_x * self._x), _total(self._e_y * self._x)
        return (under_p / self._sum_y - under_q / self._sum_x) / self._student_tau

    def by_teacher_tau(self) -> Tensor:
        r""":math:`-\frac{1}{\tau'} \sum_c p_c (d_c - K) y_c`, (N, 1)."""
        moment, mean = _total(self._e_d * self._y), _total(self._e_y * self._y)
        return (self._mean_d * mean - moment) / (self._sum_y * self._teacher_tau)


def _exponentials(logits: Tensor, tau: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Softened logits below their maximum, their exponentials, and the sum of these."""
    x = bounded_below(logits).to(dtype).div_(tau.to(dtype))
    x -= x.amax(dim=1, keepdim=True)
    e = x.exp()
    return x, e, _total(e)


def _total(x: Tensor) -> Tensor:
    """Sums (N, 1) of rows, float64: of short runs in the entries' type, which is fast, and then of these."""
    runs = x.shape[1] // RUN
    within = x[:, : runs * RUN].unflatten(1, (runs, RUN)).sum(dim=2).sum(dim=1, keepdim=True, dtype=torch.float64)
    return within + x[:, runs * RUN :].sum(dim=1, keepdim=True)
