"""What shows in the first batch that cannot be right; later ones are not looked at, which would wait for the device."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from ctkd_lightning._scores.scores import Scores
from ctkd_lightning.errors import UserError
from ctkd_lightning.temperature._softening import masked_classes

_SOME, _MANY, _SURE = 32, 4096, 1.0  # positions whose mean says something, and suffice; nats beyond chance
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


def check_finite(student: Tensor, teacher: Tensor, mask: Tensor | None) -> None:
    """Refuse a teacher whose logits (..., C) are not finite where they count, but for classes that both networks mask.

    Raises:
        UserError: NaN or infinite logits, or none but masked ones; classes that the student alone masks.
    """
    teacher, student = _kept(teacher, mask), _kept(student, mask)
    impossible = teacher == -math.inf
    if not (teacher.isfinite() | impossible).all() or impossible.all(dim=-1).any():
        raise UserError(NOT_FINITE)
    if (masked_classes(student) & ~masked_classes(teacher)).any():
        raise UserError(
            "the student masks classes (logits of -9000 or less) that the teacher holds possible, so that no training "
            "brings them together: mask them in the teacher's logits too, as with teacher_logits=lambda output: …"
        )


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
    elif (
        within
        and values.numel() >= _ENOUGH
        and (ends_in_probabilities(given) or (role == "teacher" and float(values.max()) > 0.5))
    ):
        what = f"pass scores={{'{role}': 'probabilities'}}"
        if not scores.single:  # of classes that do not exclude each other: no softmax made them
            what = f"take it off, or undo it with {role}_logits=lambda output: output.logit()"
        warnings.warn(
            f"the {role}'s scores all lie between 0 and 1, as probabilities do: if it ends in a sigmoid, {what}",
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


def check_target_values(scores: Scores, target: Tensor | None, shape: torch.Size, mask: Tensor | None) -> None:
    """Refuse classes that the networks do not score, and rows of probabilities that are not of one class.

    Args:
        scores: what was announced.
        target: as the batch has it.
        shape: of the logits, classes last.
        mask: the positions that count.

    Raises:
        UserError: a class index out of range; under ``multiclass`` probabilities whose rows do not sum to one; under
            ``binary`` and ``multilabel`` values that are not from 0 to 1.
    """
    if target is None or not target.numel():
        return
    classes = scores.classes(target, shape[:-1])
    if classes is None:
        soft = not scores.single and target.shape == shape and target.is_floating_point()
        if soft and ((_kept(target, mask).float().sum(dim=-1) - 1).abs() > 1e-2).any():
            raise UserError(
                f"the target has the scores' shape {tuple(shape)}, and its rows do not sum to one, as the "
                "probabilities of classes do: pass task='multilabel', if several can be right at once"
            )
        return
    kept = _kept(target.reshape(classes.shape), mask)
    if not kept.numel():
        return
    least, most = (float(x) for x in kept.float().aminmax())
    last = 1 if scores.single else shape[-1] - 1
    if least < 0 or most > last:
        raise UserError(
            f"the targets are numbers from {least:g} to {most:g}, and those of these scores go from 0 to {last}: leave "
            "a number out with ignore_index=, say where the targets are with target=lambda batch: …, or take networks "
            "of as many classes"
        )


def tell_worse_than_chance(teacher: Tensor, target: Tensor | None, mask: Tensor | None) -> None:
    """Warn of a teacher that is surer of wrong classes than a uniform guess would be.

    Args:
        teacher: logits, classes last.
        target: class indices, one a position.
        mask: the positions that count.
    """
    if target is None or target.numel() < _SOME:
        return
    if mask is None:  # as one row of positions
        teacher, target = teacher.flatten(0, -2), target.flatten()
    logits, target = _kept(teacher, mask)[:_MANY], _kept(target, mask)[:_MANY].long()
    if len(target) < _SOME or logits.ndim != 2:
        return
    loss, chance = float(F.cross_entropy(logits.float(), target)), math.log(logits.shape[-1])
    if loss > chance + _SURE:
        warnings.warn(
            f"the teacher's cross-entropy with the first batch's targets is {loss:.3g}, and a uniform guess has "
            f"{chance:.3g}: it may know other classes or another order of them, another tokeniser or another "
            "normalisation of its input, or the targets may stand at other positions than the scores",
            stacklevel=2,
        )


def _kept(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values[mask != 0]


def check_same_shapes(student: Tensor, teacher: Tensor, class_dim: int | None) -> None:
    """Refuse scores of other classes or other positions.

    Raises:
        UserError: naming which.
    """
    if student.shape == teacher.shape:
        return
    shapes = f"student logits have shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}"
    dim = -1 if class_dim is None else class_dim
    if student.ndim == teacher.ndim and student.shape[dim] != teacher.shape[dim]:
        raise UserError(
            f"the student scores {student.shape[dim]} classes and the teacher {teacher.shape[dim]} "
            f"({shapes}): take a teacher of the same classes, pick them with teacher_logits=lambda output: …, or say "
            "where the classes are with class_dim="
        )
    raise UserError(
        f"{shapes}: both must score the same positions; bring them together with student_logits= or teacher_logits="
    )
