"""What a network's scores mean: the one place where they become logits with the classes last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.features.outputs import Step, at_least_float32, is_integer

Task = Literal["multiclass", "binary", "multilabel", "vectors"]
Kind = Literal["logits", "probabilities"]


class Scores:
    r"""The meaning of both networks' scores.

    Under ``multiclass`` a position's scores are those of the classes, one of which is right. Under ``binary`` and
    ``multilabel`` each score is a position of its own, of something that is there or not: a logit x stands for the
    two-class logits (x, 0), since :math:`\mathrm{softmax}(x, 0) = (\mathrm{sigmoid}(x), \mathrm{sigmoid}(-x))`, and
    class 0 is *there*. A probability p becomes log p, or (log p, log (1 − p)).
    Under ``vectors`` they are no scores: what is regressed, or embeddings (..., D), which nothing softens.

    Args:
        task: torchmetrics' words.
        scores: what the networks give: for both, or by role: ``{"teacher": "probabilities"}``; the other gives logits.
        class_dim: where the classes are under ``multiclass``. By default dimension 1 of (B, C), and for maps and
            sequences told from the target's shape.
        roles: whose scores these are.

    Raises:
        UserError: other words.
    """

    def __init__(
        self,
        task: Task = "multiclass",
        scores: Kind | Mapping[str, Kind] = "logits",
        class_dim: int | None = None,
        roles: tuple[str, ...] = ("student", "teacher"),
    ) -> None:
        _check_word("task", task, get_args(Task))
        by_role = dict.fromkeys(roles, scores) if isinstance(scores, str) else dict(scores)
        for role, kind in by_role.items():
            _check_word("scores' role", role, roles)
            _check_word("scores", kind, get_args(Kind))
        if task == "vectors" and (class_dim is not None or "probabilities" in by_role.values()):
            raise UserError(
                "class_dim= and scores= say what scores of classes are, and with task='vectors' there are none: leave "
                "them out"
            )
        self.task = task
        self.kinds = cast(dict[str, Kind], dict.fromkeys(roles, "logits") | by_role)
        self.class_dim = class_dim
        self._plain = task == "multiclass" and class_dim in (None, 1, -1) and set(self.kinds.values()) == {"logits"}

    def with_logits_of(self, role: str) -> Scores:
        """The same, but that a role gives logits."""
        return Scores(self.task, {**self.kinds, role: "logits"}, self.class_dim)

    @property
    def single(self) -> bool:
        """Whether each score is a position of its own."""
        return self.task in ("binary", "multilabel")

    @property
    def vectors(self) -> bool:
        """Whether they are no scores of classes."""
        return self.task == "vectors"

    def find_class_dim(self, scores: Tensor, target: Tensor | None) -> int | None:
        """Where the classes are; ``None`` where each score is a position of its own.

        Raises:
            UserError: it cannot be told, or there is but one class.
        """
        if self.single:
            return None
        shape = scores.shape
        dim = _dim_of_classes(shape, target) if self.class_dim is None else _check_dim(self.class_dim, scores)
        if scores.ndim == 1 or shape[dim] == 1:
            raise UserError(
                f"the scores have shape {tuple(shape)}, one class a position, of which the softmax is always 1: pass "
                "task='binary' or task='multilabel' for sigmoid scores, or class_dim= where the classes are"
            )
        return dim

    def logits(self, scores: Tensor, role: str, class_dim: int | None) -> Tensor:
        """The logits (..., C), classes last."""
        if class_dim is not None:
            scores = scores if class_dim == scores.ndim - 1 else scores.movedim(class_dim, -1)
            return scores if self.kinds[role] == "logits" else _log(scores)
        if self.kinds[role] == "logits":
            return torch.stack((scores, torch.zeros_like(scores)), dim=-1)
        return torch.stack((_log(scores), _log(1 - at_least_float32(scores))), dim=-1)

    def as_they_are(self, student: Tensor, teacher: Tensor, step: Step) -> bool:
        """Whether these are logits (B, C) already, with a class index for each sample and no mask, if any."""
        target = step.target
        return (
            self._plain
            and student.ndim == 2
            and student.shape == teacher.shape
            and student.shape[1] > 1
            and step.mask is None
            and (target is None or (target.shape == student.shape[:1] and is_integer(target)))
        )

    def may_be_target(self, entry: Tensor, shape: torch.Size) -> bool:
        """Whether a tensor of a batch has the shape and type of a target for scores of this shape."""
        if self.single:
            return entry.shape[:1] == shape[:1] and same_places(entry.shape, shape)
        if self.vectors or not is_integer(entry):
            return False
        if self.class_dim is None:
            return bool(_candidates(shape, entry.shape))
        dim = self.class_dim % len(shape)
        return _same(entry.shape, shape[:dim] + shape[dim + 1 :])

    def may_be_soft(self, entry: Tensor, shape: torch.Size) -> bool:
        """Whether a tensor of a batch has the shape of one-hot or mixed labels for scores of this shape."""
        return not self.single and entry.shape == shape

    def classes(self, target: Tensor | None, positions: torch.Size) -> Tensor | None:
        """The target as class indices, one a position; ``None`` where it is of another kind.

        Args:
            target: of any integer type, (..., 1) or without that; under ``binary`` and ``multilabel`` 1 is *there*,
                and a number between 0 and 1 counts as the nearer one.
            positions: the logits' shape without the classes.
        """
        if target is None:
            return None
        if self.single:
            return (target.reshape(positions) < 0.5).long() if same_places(target.shape, positions) else None
        return target.reshape(positions) if is_integer(target) and _same(target.shape, positions) else None


def check_scores_classes(task: Task, who: str) -> None:
    """Refuse vectors where scores of classes are needed.

    Raises:
        UserError: naming what takes them.
    """
    if task == "vectors":
        raise UserError(
            f"{who} is of scores of classes, and task='vectors' has none: distil vectors with "
            "CurriculumTemperatureCallback(teacher=…, task='vectors', method=VectorKD()) in a module with a loss, or "
            "with Distillation"
        )


def same_places(shape: torch.Size, other: torch.Size) -> bool:
    """Whether ``reshape`` from one shape to the other keeps everything in its place: but for ones alike, or flat.

    Example:
        >>> same_places(torch.Size([4, 1]), torch.Size([4])), same_places(torch.Size([4, 6]), torch.Size([6, 4]))
        (True, False)
    """
    if len(shape) == 1:
        return shape.numel() == other.numel()
    return [size for size in shape if size != 1] == [size for size in other if size != 1]


def _log(probabilities: Tensor) -> Tensor:
    probabilities = at_least_float32(probabilities)
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


def _check_word(what: str, word: object, allowed: tuple[str, ...]) -> None:
    if word not in allowed:
        raise UserError(f"{what} is {word!r}: {suggest(str(word), allowed)}")


def _check_dim(dim: int, scores: Tensor) -> int:
    if not -scores.ndim <= dim < scores.ndim:
        raise UserError(
            f"class_dim is {dim}, found scores of shape {tuple(scores.shape)}: pass a dimension from {-scores.ndim} to "
            f"{scores.ndim - 1}"
        )
    return dim % scores.ndim


def _dim_of_classes(shape: torch.Size, target: Tensor | None) -> int:
    if len(shape) <= 2:
        return len(shape) - 1
    found = [] if target is None else _candidates(shape, target.shape)
    if len(found) == 1:
        return found[0]
    said = "there is no target" if target is None else f"the target has shape {tuple(target.shape)}"
    why = f"both {' and '.join(map(str, found))} fit" if found else "no dimension fits"
    raise UserError(
        f"the scores have shape {tuple(shape)} and {said}, so where the classes are cannot be told"
        f"{' (' + why + ')' if target is not None else ''}: pass class_dim=, 1 for maps (B, C, H, W), -1 for sequences "
        "(B, T, C); or task='binary' or 'multilabel', if each score is one of its own"
    )


def _candidates(shape: torch.Size, target: torch.Size) -> list[int]:
    """Where classes lie by custom, first after the batch or last, and the rest of the scores has the target's shape."""
    places = sorted({1, len(shape) - 1}) if len(shape) > 1 else []
    return [d for d in places if _same(target, shape[:d] + shape[d + 1 :])]


def _same(target: torch.Size, positions: torch.Size) -> bool:
    """Whether a target has the positions' shape, but for a dimension of size 1 that it keeps for the classes."""
    return target == positions or (
        len(target) == len(positions) + 1
        and any(target[d] == 1 and target[:d] + target[d + 1 :] == positions for d in range(1, len(target)))
    )
