"""Knowledge distillation of large vocabularies, from hidden states and heads instead of logits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Protocol

import torch
from torch import Tensor

from ctkd_lightning._masks import check_mask, entries
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features.outputs import is_integer
from ctkd_lightning.methods._linear_divergence import (
    Chunks,
    Inputs,
    Labels,
    given_logits,
    head_logits,
    linear_divergence,
)
from ctkd_lightning.temperature._softening import Softening


class StoredLogits(Protocol):
    """The teacher's logits as a store keeps them: :class:`~ctkd_lightning.token_store.StoredTokens`."""

    @property
    def shape(self) -> torch.Size:
        """Of the logits, (..., V)."""
        ...

    def chunks(self, dtype: torch.dtype, kept: Tensor | None) -> Chunks:
        """The logits of some rows at a time, of the positions that are kept."""
        ...


def linear_kd_loss(
    student_hidden: Tensor,
    student_weight: Tensor,
    temperature: float | Tensor | Softening,
    *,
    student_bias: Tensor | None = None,
    teacher_logits: Tensor | None = None,
    teacher_hidden: Tensor | None = None,
    teacher_weight: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    teacher_store: StoredLogits | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r""":func:`kd_loss` of a linear head's logits, which never exist as a whole.

    .. math::
        L = \frac{1}{N} \sum_i \tau_i^2 \sum_v p_{iv} (\log p_{iv} - \log q_{iv}), \qquad
        q_i = \mathrm{softmax}\Big(\frac{W h_i + b}{\tau_i}\Big), \qquad
        p_i = \mathrm{softmax}\Big(\frac{t_i}{\tau_i}\Big)

    with N the positions that the mask keeps, and the teacher's logits t given, or :math:`W' h'_i + b'` of its own
    hidden states and head. Value and gradients are those of ``kd_loss(student_hidden @ student_weight.T +
    student_bias, teacher_logits, temperature, mask=mask)``: with respect to hidden states, weight, bias, and whatever
    requires them behind the temperature. They are made together with the loss, from 32 MiB of logits at a time, and as
    many of a teacher's head: no logit is computed twice, and the backward pass only scales. Positions that the mask
    leaves out cost nothing; on a GPU their number is waited for. Computed in float32 or wider whatever the inputs'
    types, so also the gradients' sums.

    The teacher gets no gradient. There is no second derivative.

    Args:
        student_hidden: (..., H), what the student's head reads; (B, T, H) for sequences.
        student_weight: (V, H), the head's weight, as of ``nn.Linear``.
        temperature: τ as for :func:`kd_loss`: a float, a scalar tensor, one per sample or one per position, as (B, T)
            or (B, T, 1); or a :class:`~ctkd_lightning.Softening` whose τ are such. Rules by the logits' mean and
            variance need no logits either: with the weight's mean w and covariance C over the vocabulary these are
            :math:`h \cdot w` and :math:`h^\top C h`. Shifts that are the same for all classes change nothing.
        student_bias: (V,).
        teacher_logits: (..., V), of the same positions; or instead of them
        teacher_hidden: (..., H'), and
        teacher_weight: (V, H'), with
        teacher_bias: (V,), where the teacher's head has one; or instead of all of them
        teacher_store: what a store has of these positions, ``store.at(keys, positions)`` of
            :class:`~ctkd_lightning.token_store.TokenStore`: no teacher, and no logits of it.
        mask: (...), the positions: false or 0 leaves one out, whatever its hidden states, and a floating value is its
            weight in the mean.

    Returns:
        A scalar; 0 where there are no positions, or the mask keeps none.

    Raises:
        UserError: shapes that do not fit; a teacher that is missing, or given in two ways; a τ or shift for each
            class; under ``create_graph=True``.

    Example:
        >>> hidden, head = torch.tensor([[1.0, 0.0]]), torch.eye(2)
        >>> linear_kd_loss(hidden, head, 2.0, teacher_logits=torch.tensor([[3.0, 0.0]]))
        tensor(0.3610)
    """
    student, teacher, dtype, _ = _prepared(
        student_hidden,
        student_weight,
        student_bias,
        temperature,
        _teacher_head(teacher_hidden, teacher_weight, teacher_bias),
        teacher_logits,
        teacher_store,
        mask,
    )
    return linear_divergence(student, teacher, dtype).total


def linear_losses(
    student_hidden: Tensor,
    student_weight: Tensor,
    temperature: float | Tensor | Softening,
    target: Tensor,
    *,
    kd_weight: float = 0.9,
    ce_weight: float = 0.1,
    student_bias: Tensor | None = None,
    teacher_logits: Tensor | None = None,
    teacher_hidden: Tensor | None = None,
    teacher_weight: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    teacher_store: StoredLogits | None = None,
    mask: Tensor | None = None,
) -> dict[str, Tensor]:
    r"""KD and cross-entropy of a linear head's logits, which never exist as a whole: no logit is computed twice.

    .. math::
        L = w_\mathrm{KD} L_\mathrm{KD} - \frac{w_\mathrm{CE}}{N} \sum_i \log \mathrm{softmax}(W h_i + b)_{y_i}

    with :func:`linear_kd_loss` and cross-entropy over the same positions.

    Args:
        student_hidden: as for :func:`linear_kd_loss`; likewise all that are not named here.
        student_weight: likewise.
        temperature: of the divergence.
        target: y, (...), class indices; anything at positions that the mask leaves out.
        kd_weight: of the divergence.
        ce_weight: of cross-entropy.
        student_bias: as for :func:`linear_kd_loss`.
        teacher_logits: likewise.
        teacher_hidden: likewise.
        teacher_weight: likewise.
        teacher_bias: likewise.
        teacher_store: likewise.
        mask: of both terms.

    Returns:
        ``"loss"``, L, which alone has gradients; ``"kd"`` and ``"ce"``, the terms without their weights.

    Raises:
        UserError: as :func:`linear_kd_loss`; a target of other positions, or of classes that there are not.

    Example:
        >>> hidden, head = torch.tensor([[1.0, 0.0]]), torch.eye(2)
        >>> linear_losses(hidden, head, 2.0, torch.tensor([0]), teacher_logits=torch.tensor([[3.0, 0.0]]))
        {'loss': tensor(0.3562), 'kd': tensor(0.3610), 'ce': tensor(0.3133)}
    """
    check_number("kd_weight", kd_weight, above=0)
    check_number("ce_weight", ce_weight, least=0)
    student, teacher, dtype, kept = _prepared(
        student_hidden,
        student_weight,
        student_bias,
        temperature,
        _teacher_head(teacher_hidden, teacher_weight, teacher_bias),
        teacher_logits,
        teacher_store,
        mask,
    )
    positions, vocabulary = student_hidden.shape[:-1], len(student_weight)
    if target.shape != positions or not is_integer(target):
        raise UserError(
            f"target has shape {tuple(target.shape)} of {target.dtype}, and the positions are {tuple(positions)}: pass "
            "one class index a position"
        )
    classes = _rows(target.unsqueeze(-1), kept).squeeze(1).long()
    if len(wrong := classes[(classes < 0) | (classes >= vocabulary)]):
        raise UserError(
            f"target has the class {int(wrong[0])}, and the student's are 0 to {vocabulary - 1}: leave such positions "
            "out with mask="
        )
    share = torch.ones_like(student.factor) if mask is None or not mask.is_floating_point() else mask.flatten()[kept]
    share = share.double() / entries(mask, positions, target.device).clamp(min=torch.finfo(torch.float64).tiny)
    weighed = student._replace(factor=kd_weight * student.factor)
    losses = linear_divergence(weighed, teacher, dtype, Labels(classes, share, ce_weight))
    return {"loss": losses.total, "kd": losses.divergence / kd_weight, "ce": losses.cross_entropy}


def _prepared(
    student_hidden: Tensor,
    student_weight: Tensor,
    student_bias: Tensor | None,
    temperature: float | Tensor | Softening,
    head: Head | None,
    teacher_logits: Tensor | None,
    teacher_store: StoredLogits | None,
    mask: Tensor | None,
) -> tuple[Inputs, Chunks, torch.dtype, Tensor | None]:
    """The student's rows, the teacher's chunks, the type of both, and the numbers of the kept positions."""
    _check_head("student", student_hidden, student_weight, student_bias)
    positions, vocabulary = student_hidden.shape[:-1], len(student_weight)
    _check_teacher(teacher_logits, head, teacher_store, torch.Size((*positions, vocabulary)))
    check_mask(mask, student_hidden)
    if isinstance(temperature, Tensor):
        temperature = temperature.double()  # before its terms part, whose gradients nearly cancel
    softening = Softening.at(temperature, student_hidden)
    _check_softening(softening, positions)

    device = student_hidden.device
    kept = None if mask is None else mask.flatten().nonzero().squeeze(1)

    def of_each_row(value: Tensor) -> Tensor:
        return _rows(value.to(device, torch.float64).expand(*positions, 1), kept)

    factor = of_each_row(softening.scale.unsqueeze(-1)) / entries(mask, positions, device)
    if mask is not None and mask.is_floating_point():
        factor = factor * of_each_row(mask.unsqueeze(-1))
    student = Inputs(
        _rows(student_hidden, kept),
        student_weight,
        student_bias,
        of_each_row(softening.student),
        of_each_row(softening.teacher),
        factor.squeeze(1),
    )
    dtype = _computed_in(student_hidden, student_weight, student_bias, teacher_logits, *(head or ()))
    teacher: Chunks
    if head is not None:
        teacher = partial(head_logits, _rows(head[0].detach(), kept), *head[1:], dtype)
    elif teacher_store is not None:
        teacher = teacher_store.chunks(dtype, kept)
    else:
        assert teacher_logits is not None
        teacher = partial(given_logits, _rows(teacher_logits.detach(), None), kept)
    return student, teacher, dtype, kept


Head = tuple[Tensor, Tensor, Tensor | None]
"""Hidden states, weight and bias."""


def _teacher_head(hidden: Tensor | None, weight: Tensor | None, bias: Tensor | None) -> Head | None:
    if hidden is not None and weight is not None:
        _check_head("teacher", hidden, weight, bias)
        return hidden, weight, bias
    given = {"teacher_hidden": hidden, "teacher_weight": weight, "teacher_bias": bias}
    alone = [name for name, value in given.items() if value is not None]
    if alone:
        raise UserError(
            f"{' and '.join(alone)} alone do not make the teacher's logits: pass teacher_hidden with teacher_weight, "
            "or teacher_logits and none of these"
        )
    return None


def _check_head(who: str, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if not hidden.ndim or weight.ndim != 2 or hidden.shape[-1] != weight.shape[1]:
        raise UserError(
            f"{who}_hidden has shape {tuple(hidden.shape)} and {who}_weight {tuple(weight.shape)}: expected (..., H) "
            "and (V, H), the weight as nn.Linear has it"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise UserError(
            f"{who}_bias has shape {tuple(bias.shape)} and {who}_weight {tuple(weight.shape)}: expected one entry for "
            f"each of the {len(weight)} rows"
        )


def _check_teacher(logits: Tensor | None, head: Head | None, store: StoredLogits | None, expected: torch.Size) -> None:
    shapes = {} if logits is None else {"teacher_logits": logits.shape}
    if head is not None:
        shapes["teacher_hidden"] = torch.Size((*head[0].shape[:-1], len(head[1])))
    if store is not None:
        shapes["teacher_store"] = store.shape
    if not shapes:
        raise UserError(
            "the teacher is missing: pass teacher_logits, teacher_hidden and teacher_weight, or teacher_store"
        )
    if len(shapes) > 1:
        raise UserError(f"the teacher is given more than once, by {' and by '.join(shapes)}: leave all but one out")
    shape = next(iter(shapes.values()))
    if shape != expected:
        raise UserError(
            f"student logits would have shape {tuple(expected)} and teacher logits {tuple(shape)}: both networks must "
            "score the same positions and vocabulary"
        )


def _check_softening(softening: Softening, positions: torch.Size) -> None:
    """Refuse what has entries along the vocabulary, or is of other positions."""
    for_logits = {
        "student τ": softening.student,
        "teacher τ": softening.teacher,
        "student shift": softening.student_shift,
        "teacher shift": softening.teacher_shift,
    }
    for name, value in for_logits.items():
        if value is None:
            continue
        if value.ndim and value.shape[-1] != 1:
            raise UserError(
                f"the softening's {name} has shape {tuple(value.shape)}, an entry a class: linear_kd_loss takes a "
                "scalar or one a position; take kd_loss of the logits"
            )
        _check_broadcasts(name, value, (*positions, 1))
    _check_broadcasts("factor", softening.scale, positions)


def _check_broadcasts(name: str, value: Tensor, shape: Sequence[int]) -> None:
    try:
        value.expand(torch.Size(shape))
    except RuntimeError:
        raise UserError(
            f"the softening's {name} has shape {tuple(value.shape)}, expected one that broadcasts to {tuple(shape)}: "
            "make the softening of the same batch"
        ) from None


def _computed_in(*tensors: Tensor | None) -> torch.dtype:
    """The widest of the tensors' types, float32 at least."""
    return reduce(torch.promote_types, (x.dtype for x in tensors if x is not None), torch.float32)


def _rows(x: Tensor, kept: Tensor | None) -> Tensor:
    """The vectors (N, D) at the kept ones of the positions of x (..., D)."""
    x = x.flatten(0, -2) if x.ndim > 1 else x.unsqueeze(0)
    return x if kept is None else x.index_select(0, kept)
