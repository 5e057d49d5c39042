"""What shows in the first batch that cannot be right; later ones are not looked at, which would wait for the device."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from ctkd_lightning.errors import UserError
from ctkd_lightning.scores import Scores

_ENOUGH = 8  # scores, all between 0 and 1, are no chance
_PROBABLE = ("Sigmoid", "Softmax")
_PASSES_ON: tuple[str, ...] = (
    "Alias",
    "Clamp",
    "Clone",
    "Expand",
    "Permute",
    "ReshapeAlias",
    "Select",
    "Slice",
    "Split",
    "Squeeze",
    "T",
    "ToCopy",
    "Transpose",
    "UnsafeView",
    "Unsqueeze",
    "View",
)


def check_finite(teacher: Tensor, mask: Tensor | None) -> None:
    """Refuse a teacher whose logits (..., C) are not finite where they count.

    Raises:
        UserError: they are NaN or infinite.
    """
    if not _kept(teacher, mask).isfinite().all():
        raise UserError(NOT_FINITE)


NOT_FINITE = (
    "the teacher gave logits that are NaN or infinite: check its weights, the normalisation of its input and, under "
    "float16, its range (precision='bf16-mixed' has that of float32)"
)


def check_kind(scores: Scores, role: str, values: Tensor, mask: Tensor | None, class_dim: int | None) -> None:
    """Refuse probabilities that were announced as logits, and the other way round.

    Sigmoid scores that were announced as logits are only warned of: logits may lie between 0 and 1 too, as those of a
    network that has learned nothing yet, all of them near its bias. A student's are told by the operation they come of.

    Args:
        scores: what was announced.
        role: ``"student"`` or ``"teacher"``.
        values: as the network gave them.
        mask: the positions that count.
        class_dim: where the classes are; ``None`` where each score is a position of its own.

    Raises:
        UserError: rows that sum to one under ``logits``; values that are no probabilities under ``probabilities``.
    """
    given = values
    values = given.detach().unsqueeze(-1) if class_dim is None else given.detach().movedim(class_dim, -1)
    values = _kept(values, mask).float()
    if not values.numel():
        return
    within = bool(((values >= 0) & (values <= 1 + 1e-3)).all())
    sums_to_one = within and bool(((values.sum(dim=-1) - 1).abs() < 1e-2).all())
    probabilities = within if scores.single else sums_to_one
    if scores.kinds[role] == "probabilities":
        if not probabilities:
            found = f"from {float(values.min()):.3g} to {float(values.max()):.3g}"
            raise UserError(
                f"the {role}'s scores are announced as probabilities, found values {found}"
                f"{'' if scores.single else ' whose rows do not sum to one'}: pass scores='logits', or "
                "scores={'teacher': 'probabilities'} if one network alone ends in a softmax or sigmoid"
            )
    elif probabilities and not scores.single:
        raise UserError(
            f"the {role}'s scores are probabilities (each row sums to one), and a softmax of them would be nearly "
            f"uniform: pass scores={{'{role}': 'probabilities'}}, or take the softmax off the {role}"
        )
    elif probabilities and values.numel() >= _ENOUGH and (role == "teacher" or ends_in_probabilities(given)):
        warnings.warn(
            f"the {role}'s scores all lie between 0 and 1, as probabilities do: if it ends in a sigmoid, pass "
            f"scores={{'{role}': 'probabilities'}}",
            stacklevel=2,
        )


def ends_in_probabilities(scores: Tensor) -> bool:
    """Whether scores come of a sigmoid or softmax, with nothing after it but changes of shape and type."""
    node = scores.grad_fn
    while node is not None:
        operation = node.name().split("Backward")[0]
        if operation not in _PASSES_ON:
            return operation in _PROBABLE
        node = node.next_functions[0][0]
    return False


def check_one_class(scores: Scores, shape: torch.Size, class_dim: int | None, entries: Iterable[Tensor]) -> None:
    """Refuse targets with several classes at once under ``multiclass``: their softmax would say nothing of each.

    Args:
        scores: what was announced.
        shape: of the student's scores.
        class_dim: where the classes are.
        entries: the target, or whatever of the batch might be it.

    Raises:
        UserError: one is multi-hot: zeros and ones of the scores' shape, of which some rows do not sum to one.
    """
    if class_dim is None:
        return
    for entry in entries:
        if entry.shape != shape or entry.is_complex():
            continue
        entry = entry.detach().movedim(class_dim, -1)
        if ((entry == 0) | (entry == 1)).all() and (entry.sum(dim=-1) != 1).any():
            raise UserError(
                f"the targets are multi-hot: shape {tuple(shape)}, zeros and ones, several labels or none a row; of "
                "these a softmax over the classes says nothing: pass task='multilabel'"
            )


def _kept(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values[mask != 0]
