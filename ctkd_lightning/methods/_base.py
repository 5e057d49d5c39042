"""What every distillation method is: one named term of the loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ctkd_lightning._across_processes import WholeBatch, processes
from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import entries
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features.outputs import NetworkOutput, Step
from ctkd_lightning.temperature._softening import Softening

T = TypeVar("T")


def stage_pairs(student: NetworkOutput, teacher: NetworkOutput) -> list[tuple[Tensor, Tensor]]:
    """Pair the maps of both networks' stages: :func:`pair_ends`."""
    return pair_ends(student.stages, teacher.stages)


def preact_pairs(student: NetworkOutput, teacher: NetworkOutput) -> list[tuple[Tensor, Tensor]]:
    """Pair the maps of both networks' stages before the activation: :func:`pair_ends`."""
    return pair_ends(student.preacts, teacher.preacts)


def pair_ends(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pair the maps of two networks, from the image to the classifier.

    Networks with different numbers of maps are aligned at their ends, where the maps mean most; the first maps of the
    longer one stay out.
    """
    count = min(len(student), len(teacher))
    return list(zip(student[-count:], teacher[-count:], strict=True))


def middle_pair(student: NetworkOutput, teacher: NetworkOutput) -> tuple[Tensor, Tensor]:
    """The middle one of the stages' pairs: the second of three or of four."""
    pairs = stage_pairs(student, teacher)
    return pairs[(len(pairs) - 1) // 2]


class Method(nn.Module):
    r"""One term of the distillation loss.

    A subclass says in ``needs`` which feature roles it reads: ``"pooled"``, ``"last"``, ``"stages"`` (all of them),
    ``"preacts"`` (the same before the activation) or a single ``"stage2"``, and in ``teacher_needs`` which ones of the
    teacher, where these are others; in ``uses_temperature`` whether the temperature acts on it; in ``needs_target``
    whether it reads the target; and in ``takes_mask`` whether it reads the step's mask itself. Others are given the
    samples alone that the mask keeps, or one position of them. One that compares samples with each other, whose term is
    no mean over them, is ``relational`` and computes it of :meth:`whole`. One whose term is itself the cross-entropy
    with the target, in some epochs or all, says so in ``brings_cross_entropy``: the task's own has no weight beside it.
    Most methods are one of the two simpler kinds, :class:`LogitMethod` and :class:`FeatureMethod`. One that the package
    exports says in ``facts`` what ``docs/methods.md`` tells of it. Whoever trains with a method calls, in this
    order,

    1. :meth:`build` with the outputs on an example batch, and :meth:`prepare` with the size of the training set:
       before the optimizer is made and before DDP wraps the module, so that both see the trainable parts;
    2. :meth:`set_progress` at the start of each epoch, or of each step;
    3. the method itself in each training step. Some keep a memory of what they have seen: not in validation.

    Args:
        weight: factor of this term in the total loss.
        warmup_epochs: epochs over which the factor rises to ``weight``: in epoch e, from 0, it is
            :math:`\mathrm{weight} \cdot \min((e + 1) / \mathrm{warmup\_epochs}, 1)`. 0 for none.
        gather: whether relations between samples, and statistics of the batch, are in training those of all processes'
            batches together; else of each process's own. Nothing to a method that has neither.

    Attributes:
        weight: the factor in the current epoch: a float, or with a warm-up a scalar buffer (no part of the checkpoint),
            so that compiled code reads its new value instead of being compiled again.

    Raises:
        UserError: a weight that is no finite number from 0, a number of epochs that is no whole one from 0, or a
            ``gather`` that is not true or false.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    teacher_needs: ClassVar[tuple[str, ...] | None] = None
    uses_temperature: ClassVar[bool] = False
    takes_mask: ClassVar[bool] = False
    needs_target: ClassVar[bool] = False
    relational: ClassVar[bool] = False
    brings_cross_entropy: ClassVar[bool] = False
    facts: ClassVar[MethodFacts]
    weight: float | Tensor

    def __init__(self, weight: float = 1.0, warmup_epochs: int = 0, gather: bool = True) -> None:
        super().__init__()
        name = type(self).__name__
        check_number(f"{name}'s weight", weight, least=0)
        check_number(f"{name}'s warmup_epochs", warmup_epochs, least=0, whole=True)
        if not isinstance(gather, bool):
            raise UserError(f"{name}'s gather must be true or false, found {gather!r}")
        self.gather = gather
        self.full_weight = float(weight)
        self.warmup_epochs = int(warmup_epochs)
        if self.warmup_epochs:
            self.register_buffer("weight", torch.zeros(()), persistent=False)
            self.set_epoch(0)
        else:
            self.weight = self.full_weight

    @classmethod
    def needs_of_teacher(cls) -> tuple[str, ...]:
        """The teacher's feature roles that it reads."""
        return cls.needs if cls.teacher_needs is None else cls.teacher_needs

    def weight_in(self, epoch: int) -> float:
        """The factor in an epoch, counted from 0."""
        share = min((epoch + 1) / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0
        return self.full_weight * share

    def set_progress(self, epoch: float, fraction: float | None = None) -> None:
        """Hear where the training stands: by default :meth:`set_epoch`.

        Args:
            epoch: epochs that have passed, from 0, with the fraction of the current one where it moves by steps.
            fraction: share of the whole training that has passed, 0 to 1; ``None`` where its length is not known.
        """
        self.set_epoch(int(epoch))

    def set_epoch(self, epoch: int) -> None:
        """Set the weight of this epoch, counted from 0."""
        if isinstance(self.weight, Tensor):
            self.weight.fill_(self.weight_in(epoch))

    def unfinished_warmup(self, epochs: int | None) -> str | None:
        """What to tell a user whose training of so many epochs is too short for the full weight; else nothing."""
        if not epochs or epochs < 0 or epochs >= self.warmup_epochs:
            return None
        return (
            f"{type(self).__name__} ends at {self.weight_in(epochs - 1):g}, not at its weight {self.full_weight:g}: "
            f"warmup_epochs={self.warmup_epochs} is longer than the training of {epochs} epochs; lower the one or "
            "raise the other"
        )

    @property
    def of_all_processes(self) -> bool:
        """Whether each process computes the same term, that of all processes' batches."""
        return self.relational and self.gather and self.training

    def whole(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The rows (N, …) of all processes' batches, of tensors (B, …), in training; without ``gather`` these alone."""
        batch = WholeBatch(len(tensors[0]), tensors[0].device, together=self.gather and self.training)
        return batch.gather(*tensors)

    def entries(self, student: NetworkOutput, step: Step) -> Tensor:
        """Of how many entries the term is the mean, or of what weights: what a process's term counts among several.

        Args:
            student: as for the method itself.
            step: likewise.
        """
        shape, device = student.logits.shape, student.logits.device
        return entries(step.mask, shape[:-1], device) if self.takes_mask else entries(None, shape[:1], device)

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """Create the parts whose shapes the networks decide, from the outputs on one example batch."""

    def prepare(self, num_samples: int) -> None:
        """Create the memories that hold an entry for each sample of the training set."""

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, step: Step, softening: Softening) -> Tensor:
        """The unweighted loss of this term, a scalar.

        Args:
            student: the student's outputs.
            teacher: the teacher's outputs, without gradients.
            step: target, index and mask of the batch.
            softening: what the temperature says of these logits.
        """
        raise NotImplementedError


class LogitMethod(Method):
    """A term that reads logits alone, softened by the temperature."""

    uses_temperature = True
    takes_mask = True

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, step: Step, softening: Softening) -> Tensor:
        """The term of the logits."""
        return self.loss(student.logits, teacher.logits, step, softening)

    def whole_rows(self, student: Tensor, teacher: Tensor, softening: Softening) -> tuple[Tensor, Tensor, Softening]:
        """Logits (B, C) and how they are softened, as :meth:`whole`."""
        if not self.of_all_processes or processes() == 1:
            return student, teacher, softening
        rows = softening.rows(len(student))
        student, teacher, *found = self.whole(student, teacher, *rows.values())
        changed: dict[str, Any] = dict(zip(rows, found, strict=True))
        return student, teacher, replace(softening, **changed)

    @abstractmethod
    def loss(self, student: Tensor, teacher: Tensor, step: Step, softening: Softening) -> Tensor:
        """The unweighted loss of logits (..., C), a scalar; as in :meth:`Method.forward`."""


class FeatureMethod(Method):
    """A term that reads features alone."""

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, step: Step, softening: Softening) -> Tensor:
        """The term of the features."""
        return self.loss(student, teacher)

    @abstractmethod
    def loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        """The unweighted loss of both networks' features, a scalar."""


def built(part: T | None, method: Method) -> T:
    """A part that :meth:`Method.build` creates.

    Raises:
        UserError: it was not called.
    """
    if part is None:
        raise UserError(
            f"{type(method).__name__} was not built: call build(student, teacher) with the outputs on an example batch"
        )
    return part
