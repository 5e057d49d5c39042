"""The softened divergence of a linear head's logits, which exist a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods._checks import no_autocast
from ctkd_lightning.methods._chunked_kd import pieces
from ctkd_lightning.methods._softened_rows import SoftenedRows

CHUNK_BYTES = 2**25
"""Of a chunk's logits. They are multiplied together: few rows at a time would be slow with a large head."""

WIDENED = 2**22
"""Entries of a head in half precision that are widened at once."""

Chunks = Callable[[int], Iterator[Tensor]]
"""From a number of rows to logits, so many rows at a time; a chunk is valid until the next one is asked for."""


class Inputs(NamedTuple):
    """What has gradients.

    Attributes:
        hidden: h, (N, H).
        weight: W, (V, H).
        bias: b, (V,).
        student_tau: τ, (N, 1), float64: the terms of its gradient nearly cancel.
        teacher_tau: τ', likewise.
        factor: f, (N,), float64.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    student_tau: Tensor
    teacher_tau: Tensor
    factor: Tensor


class Labels(NamedTuple):
    """What cross-entropy reads.

    Attributes:
        classes: y, (N,), int64.
        factor: g, (N,), float64.
        weight: w.
    """

    classes: Tensor
    factor: Tensor
    weight: float


class Losses(NamedTuple):
    """Scalars; the first one alone has gradients.

    Attributes:
        total: L.
        divergence: its first term.
        cross_entropy: its second one without w; 0 without labels.
    """

    total: Tensor
    divergence: Tensor
    cross_entropy: Tensor


def linear_divergence(inputs: Inputs, teacher: Chunks, dtype: torch.dtype, labels: Labels | None = None) -> Losses:
    r"""The weighted sum of the rows' divergences, with all gradients made beside it, chunk by chunk.

    .. math::
        L = \sum_i f_i \, \mathrm{KL}(p_i \Vert q_i) - w \sum_i g_i \log \mathrm{softmax}(W h_i + b)_{y_i}, \qquad
        q_i = \mathrm{softmax}\Big(\frac{W h_i + b}{\tau_i}\Big), \qquad
        p_i = \mathrm{softmax}\Big(\frac{t_i}{\tau'_i}\Big)

    .. math::
        d_i = \frac{f_i}{\tau_i} (q_i - p_i) + w g_i (\mathrm{softmax}(W h_i + b) - e_{y_i}), \qquad
        \frac{\partial L}{\partial h_i} = W^\top d_i, \qquad
        \frac{\partial L}{\partial W} = \sum_i d_i h_i^\top, \qquad
        \frac{\partial L}{\partial b} = \sum_i d_i

    With a teacher's head of H' columns a row costs V (6 H + 2 H') operations: no logit is computed twice. The backward
    pass scales the gradients in place; a second one, over a graph that was kept, computes them anew.

    Args:
        inputs: as named.
        teacher: the logits t, (N, V); they get no gradient.
        dtype: of logits and sums, float32 or wider.
        labels: for the second term.

    Returns:
        Scalars of that type.
    """
    if not torch.is_grad_enabled():
        return _losses_and_gradients(inputs, teacher, dtype, labels, needed=[False] * len(inputs))[0]
    return Losses(*_LinearDivergence.apply(teacher, dtype, labels, *inputs))


class _LinearDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, teacher: Chunks, dtype: torch.dtype, labels: Labels | None, *tensors: Any
    ) -> tuple[Tensor, ...]:
        inputs = Inputs(*tensors)
        ctx.save_for_backward(*inputs)
        needed = ctx.needs_input_grad[3:]
        ctx.compute = partial(_losses_and_gradients, teacher=teacher, dtype=dtype, labels=labels, needed=needed)
        losses, ctx.gradients = ctx.compute(inputs)
        ctx.mark_non_differentiable(losses.divergence, losses.cross_entropy)
        return tuple(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # once_differentiable would leave the inputs' part of a second derivative out, without an error
        if torch.is_grad_enabled():
            raise UserError(
                "linear_kd_loss has no second derivative, and create_graph=True asks for one: leave it out, or take "
                "kd_loss of the logits"
            )
        inputs = Inputs(*ctx.saved_tensors)
        gradients, ctx.gradients = ctx.gradients, None  # given away: their new owner may write into them
        if gradients is None:
            _, gradients = ctx.compute(inputs)
        return (
            None,
            None,
            None,
            *(
                None if x is None or gradient is None else gradient.mul_(grad).to(x.dtype)
                for gradient, x in zip(gradients, inputs, strict=True)
            ),
        )


def _losses_and_gradients(
    inputs: Inputs, teacher: Chunks, dtype: torch.dtype, labels: Labels | None, needed: Sequence[bool]
) -> tuple[Losses, list[Tensor | None]]:
    """The losses, and the gradients needed, in the wide types: in half precision they would lose their sums."""
    hidden, weight, bias, student_tau, teacher_tau, factor = inputs
    gradients = [
        torch.zeros_like(x, dtype=torch.promote_types(x.dtype, dtype)) if x is not None and need else None
        for x, need in zip(inputs, needed, strict=True)
    ]
    to_hidden, to_weight, to_bias, to_student_tau, to_teacher_tau, _ = gradients
    divergence, cross_entropy = torch.empty_like(factor), torch.zeros_like(factor)
    if needed[-1]:
        gradients[-1] = divergence
    step = max(1, CHUNK_BYTES // max(1, len(weight) * dtype.itemsize))
    first = 0
    with no_autocast(hidden):
        for logits, guide in zip(head_logits(hidden, weight, bias, dtype, step), teacher(step), strict=True):
            chunk = slice(first, first + len(logits))
            for rows in pieces(logits):
                at = slice(first + rows.start, first + rows.stop)
                softened = SoftenedRows(logits[rows], guide[rows], student_tau[at], teacher_tau[at], dtype)
                divergence[at] = softened.divergence
                f = factor[at].unsqueeze(1)
                if to_student_tau is not None:
                    to_student_tau[at] = f * softened.by_student_tau()
                if to_teacher_tau is not None:
                    to_teacher_tau[at] = f * softened.by_teacher_tau()
                by_labels = None
                if labels is not None:
                    by_labels, cross_entropy[at] = _by_labels(logits[rows], labels, at)
                if any(needed[:3]):
                    softened.by_student_logits(f, out=logits[rows])
                    if by_labels is not None:
                        logits[rows] += by_labels
            # from here on the chunk holds the logits' gradient in their place
            if to_hidden is not None:
                for columns, block in _blocks(weight, dtype):
                    torch.addmm(to_hidden[chunk], logits[:, columns], block, out=to_hidden[chunk])
            if to_weight is not None:
                torch.addmm(to_weight, logits.T, hidden[chunk].to(dtype), out=to_weight)
            if to_bias is not None:
                to_bias += logits.sum(dim=0)
            first = chunk.stop
        first_term, second = torch.dot(factor, divergence), cross_entropy.sum()
        total = first_term + (0.0 if labels is None else labels.weight) * second  # another tensor than the first term
        return Losses(*(loss.to(dtype) for loss in (total, first_term, second))), gradients


def _by_labels(logits: Tensor, labels: Labels, at: slice) -> tuple[Tensor, Tensor]:
    """The gradient w g (softmax - one-hot), (N, C), of some rows; and their weighted cross-entropies, (N,)."""
    log_p, own, factor = torch.log_softmax(logits, dim=1), labels.classes[at].unsqueeze(1), labels.factor[at]
    loss = -factor * log_p.gather(1, own).squeeze(1)
    weight = labels.weight * factor.unsqueeze(1).to(log_p.dtype)
    return log_p.exp_().mul_(weight).scatter_add_(1, own, -weight), loss


def head_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, step: int) -> Iterator[Tensor]:
    """The logits of a head, in one buffer that each chunk overwrites.

    Args:
        hidden: (N, H).
        weight: (V, H).
        bias: (V,).
        dtype: of the logits.
        step: rows a chunk.
    """
    buffer = hidden.new_empty(min(step, len(hidden)), len(weight), dtype=dtype)
    for start in range(0, len(hidden), step):
        x = hidden[start : start + step].to(dtype)
        logits = buffer[: len(x)]
        for columns, block in _blocks(weight, dtype):
            torch.mm(x, block.T, out=logits[:, columns])
        if bias is not None:
            logits += bias
        yield logits


def given_logits(logits: Tensor, kept: Tensor | None, step: int) -> Iterator[Tensor]:
    """Chunks of logits (N, V) that exist, of the rows that are kept."""
    count = len(logits if kept is None else kept)
    for start in range(0, count, step):
        chunk = slice(start, start + step)
        yield logits[chunk if kept is None else kept[chunk]]


def _blocks(weight: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """The rows of a head in another type: all together where they have it, else some at a time."""
    step = max(1, len(weight) if weight.dtype == dtype else WIDENED // max(1, weight.shape[1]))
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        yield rows, weight[rows].to(dtype)
