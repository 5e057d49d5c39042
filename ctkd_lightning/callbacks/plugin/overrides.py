"""Set attributes of foreign objects for a while."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

_ABSENT = object()


class Overrides:
    """Attributes set on instances, and how to take them back."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute in the owner's own dictionary, past its class."""
        self._replaced.append((owner, name, vars(owner).get(name, _ABSENT)))
        vars(owner)[name] = value

    def undo(self) -> None:
        """Leave every owner as it was."""
        while self._replaced:
            owner, name, previous = self._replaced.pop()
            if previous is _ABSENT:
                vars(owner).pop(name, None)
            else:
                vars(owner)[name] = previous


class WrappedMethod:
    """A method with something around it.

    To inspection, which Lightning does, it looks like the method itself. In copies of the owner, such as a weight
    average, and in pickles, it is the method itself: they are not part of this training.

    Args:
        method: bound to its owner.
        wrapper: called in its place.
    """

    def __init__(self, method: Callable[..., Any], wrapper: Callable[..., Any]) -> None:
        functools.update_wrapper(self, method, updated=())
        self._wrapper = wrapper

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapper."""
        return self._wrapper(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        method = self.__wrapped__  # type: ignore[attr-defined]  # set by update_wrapper
        if isinstance(method, MethodType):  # as methods do it: the file loads without this package
            return getattr, (method.__self__, method.__name__)
        return _itself, (method,)


def _itself(method: Callable[..., Any]) -> Callable[..., Any]:
    return method
