"""The papers' learning-rate schedule, for runs of any length."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR

from ctkd_lightning.errors import UserError


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
