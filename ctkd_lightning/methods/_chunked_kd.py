"""The softened divergence in pieces, for logits that are too large to be softened at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods._checks import no_autocast
from ctkd_lightning.temperature._softening import bounded_below

CHUNK = {"cpu": 2**19, "cuda": 2**24}
"""Logits a piece: some pieces fit into a CPU's cache, and fill a GPU."""


_in_pieces = True


@contextmanager
def at_once() -> Iterator[None]:
    """Soften large logits at once too, for a second derivative."""
    global _in_pieces
    before, _in_pieces = _in_pieces, False
    try:
        yield
    finally:
        _in_pieces = before


def worth_chunking(student: Tensor, teacher: Tensor) -> bool:
    """Whether pieces are faster, and possible: from four of them on, where rows lie one after the other.

    A compiler makes one pass of the plain formulation by itself.
    """
    if not _in_pieces:
        return False
    pieces = student.numel() / _chunk(student)
    return pieces >= 4 and student.is_contiguous() and teacher.is_contiguous() and not torch.compiler.is_compiling()


def chunked_divergence(student: Tensor, teacher: Tensor, temperature: Tensor) -> Tensor:
    r"""τ²·KL of each row, and its gradients, with buffers of a few rows instead of copies of all logits.

    .. math::
        L_i = \tau_i^2 \sum_c p_{ic} d_{ic}, \qquad d_{ic} = \log p_{ic} - \log q_{ic}

    .. math::
        \frac{\partial L_i}{\partial s_{ic}} = \tau_i (q_{ic} - p_{ic}), \qquad
        \frac{\partial L_i}{\partial t_{ic}} = \tau_i \, p_{ic} (d_{ic} - K_i), \qquad
        \frac{\partial L_i}{\partial \tau_i} = 2 \tau_i K_i - \tau_i \sum_c \left[ p_{ic} (d_{ic} - K_i) \log p_{ic}
        + (q_{ic} - p_{ic}) \log q_{ic} \right]

    with :math:`K_i = \sum_c p_{ic} d_{ic}`. The backward pass softens the logits a second time instead of keeping them.
    Computed in float32 or wider; the logits' gradients have the logits' type. There is no second derivative: the
    backward pass raises a UserError under ``create_graph=True``.

    Args:
        student: (N, C).
        teacher: (N, C).
        temperature: (N, 1), float32 or wider.

    Returns:
        (N,), the temperature's type.
    """
    loss: Tensor = _ChunkedDivergence.apply(student, teacher, temperature)
    return loss


class _ChunkedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: Tensor) -> Tensor:
        ctx.save_for_backward(student, teacher, temperature)
        loss = torch.empty_like(temperature.squeeze(1))
        for rows, tau, log_q, log_p in _softened(student, teacher, temperature):
            loss[rows] = tau.square().squeeze(1) * _divergence(log_p, log_q)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # once_differentiable would leave the inputs' part of a second derivative out, without an error
        if torch.is_grad_enabled():
            raise UserError(
                "the divergence of large logits has no second derivative, and create_graph=True asks for one: leave it "
                f"out, or raise {__name__}.CHUNK above a quarter of the logits' number, which softens them at once"
            )
        inputs = ctx.saved_tensors
        student, teacher, temperature = (
            torch.empty_like(x) if needed else None for x, needed in zip(inputs, ctx.needs_input_grad, strict=True)
        )
        for rows, tau, log_q, log_p in _softened(*inputs):
            scale = tau * grad[rows, None]
            p = log_p.exp()
            difference = log_q.exp().sub_(p)  # q - p
            if student is not None:
                student[rows] = difference * scale
            if teacher is None and temperature is None:
                continue
            divergence = _divergence(log_p, log_q)[:, None]
            pull = (log_p - log_q).sub_(divergence).mul_(p)  # p (d - K)
            if teacher is not None:
                teacher[rows] = pull * scale
            if temperature is not None:
                moment = _dot(pull, log_p) + _dot(difference, log_q)
                temperature[rows] = scale * (2 * divergence - moment[:, None])
        return student, teacher, temperature


def _softened(student: Tensor, teacher: Tensor, temperature: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Pieces of rows with their temperatures and the log-probabilities of student and teacher."""
    for rows in pieces(student):
        tau = temperature[rows]
        log_q, log_p = (torch.log_softmax(bounded_below(x[rows]) / tau, dim=1) for x in (student, teacher))
        yield rows, tau, log_q, log_p


def pieces(logits: Tensor) -> Iterator[slice]:
    """Rows of logits (N, C), a piece at a time."""
    count, classes = logits.shape
    step = max(1, _chunk(logits) // max(1, classes))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _chunk(logits: Tensor) -> int:
    return CHUNK.get(logits.device.type, CHUNK["cuda"])


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    return _dot(log_p.exp(), log_p - log_q)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The rows' inner products, without a buffer for the elements' products."""
    with no_autocast(a):
        return torch.linalg.vecdot(a, b)
