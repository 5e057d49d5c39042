"""How a teacher is asked that is not simply called as the student is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from ctkd_lightning.errors import UserError


class StudentCall(NamedTuple):
    """One call of the student.

    Attributes:
        args: positional arguments, as they were at the call.
        kwargs: keyword arguments.
        output: what it returned; ``None`` where it has not run yet.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any = None


AskTeacher = Callable[[nn.Module, StudentCall], Any]


class AskedTeacher(nn.Module):
    """A teacher whose scores are not one forward pass: a callable asks it.

    Args:
        network: the teacher.
        ask: from the teacher and the student's call to what the teacher gives, in the student's form.
    """

    def __init__(self, network: nn.Module, ask: AskTeacher) -> None:
        super().__init__()
        self.network = network
        self.ask = ask

    def forward(self, call: StudentCall) -> Any:
        """What the callable says."""
        return self.ask(self.network, call)


class TeacherInput:
    """From the student's call to the teacher's arguments.

    Args:
        pick: of the batch, ``pick(batch)``, or of the batch and the student's call, ``pick(batch, call)``: another
            resolution, another tokeniser, a clean view. It returns the teacher's arguments: a tuple of positional
            ones, a mapping of those by name, or the only one. ``None`` for those of the student.

    Raises:
        UserError: no callable of one or two arguments.

    Example:
        >>> halved = TeacherInput(lambda batch, call: call.args[0] / 2)
        >>> halved.arguments(None, StudentCall((4.0,), {}))
        ((2.0,), {})
    """

    def __init__(self, pick: Callable[..., Any] | None) -> None:
        self.pick = pick
        self.takes_call = pick is not None and _count_arguments(pick) == 2

    def arguments(self, batch: Any, call: StudentCall) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Positional and keyword arguments of the teacher."""
        if self.pick is None:
            return call.args, call.kwargs
        found = self.pick(batch, call) if self.takes_call else self.pick(batch)
        if isinstance(found, Mapping):
            return (), found
        return (tuple(found), {}) if isinstance(found, tuple | list) else ((found,), {})


def _count_arguments(pick: Callable[..., Any]) -> int:
    if callable(pick):
        try:
            parameters = inspect.signature(pick).parameters.values()
        except (TypeError, ValueError):  # built in
            return 1
        count = sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
        if count in (1, 2):
            return count
    raise UserError(
        f"teacher_input must be a callable of the batch, or of the batch and the student's call, found {pick!r}"
    )
