"""Count the steps that were distilled, and say so where none is."""

from __future__ import annotations

from collections.abc import Callable

from lightning_utilities.core.rank_zero import rank_zero_warn

from ctkd_lightning.errors import UserError

_PATIENCE = 50  # steps from the start after which a warning says that none was distilled


class DistilledSteps:
    """Some steps of a training may do something else; all of them may not."""

    def __init__(self) -> None:
        self._steps = 0
        self._epoch_steps = self._epoch_distilled = 0
        self._ever = self._warned = False

    def count(self, distilled: bool, why_not: Callable[[], str]) -> None:
        """Count a step; warn where the first ones were all without distillation.

        Args:
            distilled: whether this one was.
            why_not: the reason, where it was not.
        """
        self._steps += 1
        self._epoch_steps += 1
        self._epoch_distilled += distilled
        self._ever |= distilled
        if self._steps == _PATIENCE and not self._ever:
            rank_zero_warn(f"none of the first {_PATIENCE} steps was distilled: {why_not()}")

    def end_epoch(self, why_not: Callable[[], str]) -> None:
        """Look at the epoch that ends.

        Args:
            why_not: the reason why its last step was not distilled.

        Raises:
            UserError: it had steps, and none of them, nor of the epochs before, was distilled.
        """
        steps, distilled = self._epoch_steps, self._epoch_distilled
        self._epoch_steps = self._epoch_distilled = 0
        if distilled or not steps:
            return
        if not self._ever:
            raise UserError(why_not())
        if not self._warned:
            self._warned = True
            rank_zero_warn(f"no step of this epoch was distilled: {why_not()}")
