"""What each term of the loss is called with: all positions, or those that a mask keeps, and how they are softened."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ctkd_lightning._masks import entries
from ctkd_lightning.features.outputs import NetworkOutput, Step
from ctkd_lightning.methods import Method
from ctkd_lightning.temperature import Softening, Temperature

_NOT_SOFTENED = Softening(torch.ones(()), torch.ones(()), torch.ones(()))


class TermInputs:
    """The inputs of one step's terms, each softening computed once.

    Args:
        temperature: one, or one for each method that softens, by name.
        student: logits (..., C).
        teacher: likewise.
        step: what the batch says of them.
        leaves_out: whether methods that read no mask are given the kept samples alone; to find those waits for the
            device.
    """

    def __init__(
        self, temperature: nn.Module, student: NetworkOutput, teacher: NetworkOutput, step: Step, *, leaves_out: bool
    ) -> None:
        self.temperature = temperature
        self._given = student, teacher, step
        self._leaves_out = leaves_out and step.mask is not None
        self._narrowed: dict[bool, tuple[NetworkOutput, NetworkOutput, Step]] = {}
        self._softenings: dict[tuple[int, object], Softening] = {}

    def for_method(self, name: str, method: Method) -> tuple[NetworkOutput, NetworkOutput, Step, Softening]:
        """What one method is called with."""
        student, teacher, step = self._outputs(method)
        if not method.uses_temperature:
            return student, teacher, step, _NOT_SOFTENED
        own = self.temperature
        temperature = cast(Temperature, own[name] if isinstance(own, nn.ModuleDict) else own)
        key = id(temperature), self._kind(method) if temperature.whole_batch else id(student)
        if key not in self._softenings:
            self._softenings[key] = temperature.soften(student.logits, teacher.logits, step)
        return student, teacher, step, self._softenings[key]

    def entries(self, method: Method) -> Tensor:
        """Of how many entries one method's term is the mean; 1 of a term that all processes have in common."""
        student, _, step = self._outputs(method)
        if method.of_all_processes:
            return entries(None, (), student.logits.device)
        return method.entries(student, step)

    def _kind(self, method: Method) -> object:
        """What decides over the method's inputs, whatever the batch holds.

        Where processes ask each other for a softening, each must do it as often as the others: also one without
        samples to leave out, whose methods are all given the same.
        """
        return None if method.takes_mask else bool(method.needs)

    def _outputs(self, method: Method) -> tuple[NetworkOutput, NetworkOutput, Step]:
        rows = method.uses_temperature and not method.needs  # of logits, however many dimensions they have
        flat = self._given[0].logits.ndim == 2
        if method.takes_mask or not (self._leaves_out or (rows and not flat)):
            return self._given
        if rows not in self._narrowed:
            narrow = _rows if rows else _samples
            self._narrowed[rows] = narrow(*self._given, leaves_out=self._leaves_out)
        return self._narrowed[rows]


def _rows(
    student: NetworkOutput, teacher: NetworkOutput, step: Step, *, leaves_out: bool
) -> tuple[NetworkOutput, NetworkOutput, Step]:
    """The logits as rows (N, C), of the kept positions alone."""
    kept = step.mask.flatten() != 0 if leaves_out and step.mask is not None else slice(None)
    s, t = (NetworkOutput(x.logits.flatten(0, -2)[kept]) for x in (student, teacher))
    return s, t, Step(None if step.target is None else step.target.flatten()[kept])


def _samples(
    student: NetworkOutput, teacher: NetworkOutput, step: Step, *, leaves_out: bool
) -> tuple[NetworkOutput, NetworkOutput, Step]:
    """The samples with a position that the mask keeps."""
    assert step.mask is not None
    kept = (step.mask != 0).flatten(1).any(dim=1) if step.mask.ndim > 1 else step.mask != 0
    rows = kept.nonzero().squeeze(1)

    def take(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[rows]

    def of(output: NetworkOutput) -> NetworkOutput:
        features = {role: feature[rows] for role, feature in output.features.items()}
        return NetworkOutput(output.logits[rows], features, output.classifier)

    return of(student), of(teacher), Step(take(step.target), take(step.index), take(step.mask))
