"""The papers' learning-rate schedules, for runs of any length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR

from ctkd_lightning.errors import UserError, check_number


def step_decay(
    optimizer: Optimizer, max_epochs: int, milestones: Sequence[float] = (0.625, 0.75, 0.875), gamma: float = 0.1
) -> MultiStepLR:
    """Multiply the learning rate by ``gamma`` at each milestone.

    Args:
        optimizer: whose rates are scheduled.
        max_epochs: length of the run.
        milestones: below 1 a fraction of the run, from 1 on an epoch. The default is the CTKD paper's 150, 180 and 210
            of 240 epochs.
        gamma: factor at each milestone.

    Raises:
        UserError: a milestone that is not positive.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> sorted(step_decay(optimizer, max_epochs=240).milestones)
        [150, 180, 210]
    """
    if any(not milestone > 0 for milestone in milestones):
        raise UserError(f"scheduler's milestones must be positive, found {list(milestones)}")
    epochs = [round(m * max_epochs) if m < 1 else int(m) for m in milestones]
    return MultiStepLR(optimizer, epochs, gamma=gamma)


def cosine_with_warmup(optimizer: Optimizer, max_epochs: int, warmup_epochs: int = 1) -> LambdaLR:
    """Grow the learning rate linearly at first; from then on it is half a cosine's, from 1 at epoch 0 to 0 at the end.

    Args:
        optimizer: whose rates are scheduled.
        max_epochs: length of the run.
        warmup_epochs: of which epoch e (from 0) has (e + 1) / (warmup_epochs + 1) of the rate.

    Raises:
        UserError: a start below 0.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> cosine_with_warmup(optimizer, max_epochs=20).get_last_lr()
        [0.05]
    """
    check_number("scheduler's warmup_epochs", warmup_epochs, least=0, whole=True)

    def factor(epoch: int) -> float:
        if epoch < warmup_epochs:
            return (epoch + 1) / (warmup_epochs + 1)
        return 0.5 * (1 + math.cos(math.pi * min(epoch / max_epochs, 1.0)))

    return LambdaLR(optimizer, factor)


class PerStep(LambdaLR):
    """A schedule that the modules step after each step of the optimizer, not after each epoch."""

    interval = "step"


def step_decay_with_warmup(
    optimizer: Optimizer,
    max_steps: int,
    milestones: Sequence[float] = (2 / 3, 8 / 9),
    gamma: float = 0.1,
    warmup_steps: int = 1000,
    warmup_start: float = 0.001,
) -> PerStep:
    """Grow the learning rate linearly at first, then multiply it by ``gamma`` at each milestone, counted in steps.

    Args:
        optimizer: whose rates are scheduled.
        max_steps: length of the run.
        milestones: fractions of the run; the default is 120,000 and 160,000 of the 180,000 steps that detectors are
            distilled for on COCO.
        gamma: factor at each milestone.
        warmup_steps: after which the rate is the whole one.
        warmup_start: its share in the first step.

    Raises:
        UserError: a number that cannot be.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule = step_decay_with_warmup(optimizer, max_steps=9, warmup_steps=2, warmup_start=0.5)
        >>> rates = []
        >>> for _ in range(9):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 4))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01]
    """
    check_number("max_steps", max_steps, least=1, whole=True)
    check_number("warmup_steps", warmup_steps, least=0, whole=True)
    check_number("warmup_start", warmup_start, least=0, most=1)
    if any(not 0 < milestone < 1 for milestone in milestones):
        raise UserError(f"scheduler's milestones must be fractions of the run, found {list(milestones)}")
    decays = [round(milestone * max_steps) for milestone in milestones]
    return PerStep(optimizer, partial(_share, decays, gamma, warmup_steps, warmup_start))


def _share(decays: Sequence[int], gamma: float, warmup_steps: int, warmup_start: float, step: int) -> float:
    warm = warmup_start + (1 - warmup_start) * step / warmup_steps if step < warmup_steps else 1.0
    return float(warm * gamma ** sum(step >= decay for decay in decays))
