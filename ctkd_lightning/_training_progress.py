"""Where a Lightning training stands, and how long it will be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ctkd_lightning.curriculum import Curriculum

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_LONG = 1000  # epochs: no need to look further


def training_fraction(trainer: Trainer) -> float | None:
    """The share of the training that has passed, 0 to 1: of epochs or of steps, whichever end comes first.

    ``None`` where its length is not known; a limit of time does not say it.
    """
    ends = ((trainer.current_epoch, trainer.max_epochs), (trainer.global_step, trainer.max_steps))
    shares = [passed / end for passed, end in ends if end is not None and end > 0]
    return min(max(shares), 1.0) if shares else None


def planned_batches(trainer: Trainer) -> float:
    """How many batches the training has from its start, as far as is known; infinity where it is not."""
    epoch = trainer.num_training_batches
    by_epochs = trainer.max_epochs * epoch if trainer.max_epochs is not None and trainer.max_epochs > 0 else math.inf
    by_steps = math.inf
    if trainer.max_steps is not None and trainer.max_steps > 0:
        by_steps = trainer.max_steps * trainer.accumulate_grad_batches
    return min(by_epochs, by_steps)


def planned_epochs(trainer: Trainer, steps_per_epoch: int | None = None) -> int | None:
    """How many epochs the training enters, from its start, as far as is known; a stream is one without end."""
    epoch = steps_per_epoch or trainer.num_training_batches
    if math.isinf(epoch):
        return 1
    batches = planned_batches(trainer)
    return math.ceil(batches / epoch) if epoch and math.isfinite(batches) else None


def curriculum_at_zero(
    trainer: Trainer, curriculum: Curriculum, interval: str = "epoch", steps_per_epoch: int | None = None
) -> str | None:
    """What to say where λ never leaves 0 in the whole training, as far as that can be foreseen; else nothing.

    Args:
        trainer: with its loaders made.
        curriculum: λ(epoch).
        interval: ``"epoch"`` or ``"step"``: when λ is set.
        steps_per_epoch: batches that count as an epoch, where the curriculum does not follow the loader's.
    """
    batches, epoch = planned_batches(trainer), steps_per_epoch or trainer.num_training_batches
    if math.isinf(epoch):  # a stream is one epoch without end
        if curriculum(0):
            return None
        long = f"{batches:g} steps" if math.isfinite(batches) else "this training"
        return (
            f"λ stays at 0 for {long} under {curriculum}: the loader does not say how long an epoch is, so no epoch "
            "will end and the temperature will not learn; say with steps_per_epoch=N how many steps count as one"
        )
    epochs = batches / epoch if epoch else 0.0
    if not 0 < epochs < _LONG:
        return None
    if steps_per_epoch or interval == "step":
        last = (batches - 1) / epoch
        reached = any(map(curriculum, (last, *range(math.ceil(epochs)))))
    else:
        reached = any(map(curriculum, range(math.ceil(epochs))))
    if reached:
        return None
    return (
        f"λ never leaves 0 in {epochs:.3g} epoch(s) under {curriculum}: the temperature will not learn; train longer, "
        "start the curriculum above 0, set its interval to 'step', or say with steps_per_epoch=N how many steps count "
        "as an epoch"
    )
