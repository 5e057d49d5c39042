"""Notice gradients that are accumulated by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn
from torch.optim import Optimizer


class AccumulationWatch:
    """Warn, once, where several backward passes with a distillation loss come before one step of the optimizer.

    Args:
        parameters: the student's.
        optimizers: all of the training's; those that hold some of the parameters are watched.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], optimizers: Iterable[Any]) -> None:
        self._parameters = list(parameters)
        self._passes = 0  # since the last step
        ours = {id(p) for p in self._parameters}
        holders = [o for o in optimizers if isinstance(o, Optimizer) and _holds(o, ours)]
        self._handles = [optimizer.register_step_pre_hook(self._step) for optimizer in holders]

    def count_backward(self) -> None:
        """Count a backward pass, just before it."""
        if not self._handles:
            return
        if self._passes and all(p.grad is None for p in self._parameters):  # what came before was thrown away
            self._passes = 0
        self._passes += 1

    def close(self) -> None:
        """Watch no more."""
        while self._handles:
            self._handles.pop().remove()

    def _step(self, *_: Any) -> None:
        if self._passes > 1:
            rank_zero_warn(
                f"training_step accumulates the gradients of {self._passes} backward passes before a step of the "
                "optimizer: if it divides its loss by that number, say so with CurriculumTemperatureCallback("
                f"accumulate_grad_batches={self._passes}), or the distillation is as many times too strong"
            )
            self.close()
        self._passes = 0


def _holds(optimizer: Optimizer, parameters: set[int]) -> bool:
    return any(id(p) in parameters for group in optimizer.param_groups for p in group["params"])
