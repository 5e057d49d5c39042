"""Annealing KD: first regression of the teacher's logits, which grow to their size; then the labels alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import check_mask, masked, mean_over_positions
from ctkd_lightning._scores.task_loss import class_cross_entropy
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features.outputs import Step, at_least_float32
from ctkd_lightning.methods._base import LogitMethod
from ctkd_lightning.methods._checks import check_logits, check_target, need_target
from ctkd_lightning.temperature._softening import Softening, masked_classes

SHARE = 2 / 3
"""Of the training that phase 1 takes by default: the paper's 200 of 300 epochs."""


def annealing_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    level: float | Tensor,
    levels: int = 10,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Squared distance of the student's logits from the teacher's, which are scaled down: phase 1 of Annealing KD.

    .. math:: L = \frac{1}{N C} \sum_i \sum_c \left( s_{ic} - \frac{k}{K} \, t_{ic} \right)^2

    with the level k, from 1 to K; the paper counts its temperature down, τ = K − k + 1. There is no softmax. A class
    that either network masks, with logits of -9000 or less, has no value to compare and does not count. Computed in
    float32 or wider.

    Jafari et al., *Annealing Knowledge Distillation*, EACL 2021, https://arxiv.org/abs/2104.07163.

    Args:
        student_logits: (..., C).
        teacher_logits: the same shape.
        level: k, a number or a scalar tensor, whose value is not looked at.
        levels: K.
        mask: (...), the positions that count; false or 0 leaves one out, whatever its logits, a floating value weights
            it.

    Returns:
        A scalar; 0 where there are no positions, or the mask keeps none.

    Raises:
        UserError: shapes that do not fit, or a level that is not from 1 to K.

    Example:
        >>> import torch
        >>> annealing_kd_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0, 0.0]]), level=5, levels=10)
        tensor(0.5000)
    """
    check_logits(student_logits, teacher_logits)
    check_mask(mask, student_logits)
    check_number("annealing_kd_loss's levels", levels, least=1, whole=True)
    if not isinstance(level, Tensor):
        check_number("annealing_kd_loss's level", level, least=1, most=levels)
    student, teacher = (at_least_float32(masked(x, mask)) for x in (student_logits, teacher_logits))
    left_out = masked_classes(torch.minimum(student, teacher))
    squares = (student - teacher * level / levels).masked_fill(left_out, 0.0).square()
    return mean_over_positions(squares.sum(dim=-1) / left_out.logical_not().sum(dim=-1).clamp(min=1), mask)


class AnnealingKD(LogitMethod):
    r"""Annealing KD's two phases: :func:`annealing_kd_loss` at levels that rise, then the cross-entropy alone.

    Jafari et al., *Annealing Knowledge Distillation*, EACL 2021, https://arxiv.org/abs/2104.07163.

    Where a share x of phase 1 has passed, its level is :math:`k = \lfloor x K \rfloor + 1`: an epoch e of
    :math:`E_1` is at :math:`\lfloor e K / E_1 \rfloor + 1`. The authors' code raises k every
    :math:`\lfloor E_1 / K \rfloor` epochs, which is the same where K divides :math:`E_1`; where it does not, their k
    passes K (25 epochs: 1.3 times the teacher's logits at the end), this one never does. From the end of phase 1 on the
    term is the cross-entropy of the student with the target, and the teacher has no say.

    Phase 1 has no cross-entropy, and phase 2 has its own: no other stands beside it. ``ce_weight`` is 0 where nothing
    else is said, and any other is refused.

    The target must be class indices. Under ``binary`` and ``multilabel`` phase 2 is the binary cross-entropy with ones
    and zeros (another number counts as the nearer one), and phase 1 half the squared distance of the scores, each of
    which is one of two logits of which the other is 0.

    The paper's learning rate starts again with phase 2; a term of the loss cannot do that, a scheduler can:
    ``scheduler=lambda optimizer: CosineAnnealingWarmRestarts(optimizer, T_0=E_1)`` of ``torch.optim.lr_scheduler``.

    Args:
        levels: K.
        epochs: :math:`E_1`, the length of phase 1; two thirds of the training by default, the paper's 200 of 300.
        weight: factor of the term, in both phases.

    Attributes:
        level: k, a scalar buffer of whole numbers, which no cast to half precision rounds; K in phase 2. A function of
            the progress, so it is not part of the checkpoint.
        in_phase_2: whether phase 1 is over.

    Raises:
        UserError: a setting out of range; in use, no target, or a training of unknown length without ``epochs``.

    Example:
        >>> method = AnnealingKD()
        >>> method.set_progress(epoch=30, fraction=0.1)
        >>> method.level, method.in_phase_2
        (tensor(2), False)
    """

    facts = MethodFacts(
        paper="Jafari, EACL 2021",
        url="https://arxiv.org/abs/2104.07163",
        weight_from="authors' code",
        name="annealing_kd",
    )

    uses_temperature = False
    needs_target = True
    brings_cross_entropy = True

    level: Tensor

    def __init__(self, levels: int = 10, epochs: float | None = None, weight: float = 1.0) -> None:
        super().__init__(weight)
        check_number("AnnealingKD's levels", levels, least=1, whole=True)
        if epochs is not None:
            check_number("AnnealingKD's epochs", epochs, above=0)
        self.levels, self.epochs = int(levels), epochs
        self.in_phase_2 = False
        self.register_buffer("level", torch.tensor(1), persistent=False)

    def level_at(self, share: float) -> int:
        """The level where that share of phase 1 has passed; K from its end on."""
        return min(math.floor(share * self.levels + 1e-9) + 1, self.levels)  # 0.29 · 100 is less than 29

    def set_progress(self, epoch: float, fraction: float | None = None) -> None:
        """Set the phase, and the level within phase 1.

        Raises:
            UserError: the length of the training is not known, and no ``epochs`` are given.
        """
        if self.epochs is not None:
            share = epoch / self.epochs
        elif fraction is not None:
            share = fraction / SHARE
        else:
            raise UserError(
                "AnnealingKD's phase 1 is two thirds of the training, and its length is not known: pass epochs=, or "
                "limit the training by max_epochs or max_steps"
            )
        self.in_phase_2 = share >= 1 - 1e-9
        self.level.fill_(self.level_at(share))

    def set_epoch(self, epoch: int) -> None:
        """:meth:`set_progress` where nothing more is known."""
        self.set_progress(epoch)

    def unfinished_warmup(self, epochs: int | None) -> str | None:
        """What to tell a user whose training never comes to phase 2, or in phase 1 to the teacher's own logits."""
        if not epochs or epochs < 0:
            return None
        length = SHARE * epochs if self.epochs is None else self.epochs
        first = min(math.ceil(length - 1e-9), epochs)
        if first == epochs:
            return (
                f"AnnealingKD never comes to the labels: its phase 1 takes all of {epochs} epoch(s); train longer, "
                "or set epochs, the length of phase 1, lower than that"
            )
        last = self.level_at((first - 1) / length)
        if last == self.levels:
            return None
        return (
            f"AnnealingKD's phase 1 of {first} epochs ends at level {last} of {self.levels}, not at the teacher's own "
            f"logits: lower levels to {math.floor(length + 1e-9)}, or train longer"
        )

    def loss(self, student: Tensor, teacher: Tensor, step: Step, softening: Softening) -> Tensor:
        """The squared distance in phase 1, the cross-entropy in phase 2."""
        target = need_target(step.target, "AnnealingKD")  # in phase 1 too: not to miss it after two thirds of a run
        check_target(target, student)
        if self.in_phase_2:
            return class_cross_entropy(masked(student, step.mask), target, step.mask)
        return annealing_kd_loss(student, teacher, self.level, self.levels, mask=step.mask)
