"""One base class for the callbacks of Lightning's two distributions."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

_DISTRIBUTIONS = ("lightning.pytorch", "pytorch_lightning")


def _first_installed() -> Any:
    for name in _DISTRIBUTIONS:
        try:
            return importlib.import_module(name).Callback
        except ImportError:
            continue
    raise ImportError("Lightning is not installed: pip install lightning")


if TYPE_CHECKING:
    from lightning.pytorch import Callback as _Callback
else:
    _Callback = _first_installed()


class Callback(_Callback):
    """A callback for the Trainers of both distributions.

    ``lightning.pytorch`` and ``pytorch_lightning`` are the same code under two names, so their classes differ, and a
    Trainer of the one treats callbacks of the other as strangers. This class takes both for bases. The second is not
    imported for it, which would cost time and redirect Lightning's messages to the other's logger: it joins when the
    user has imported it, by the time that a class is made or handed out, or a callback is made.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make a class of all distributions imported so far."""
        super().__init_subclass__(**kwargs)
        join_distributions()

    def __new__(cls, *args: Any, **kwargs: Any) -> Callback:
        """Make a callback of all distributions imported so far."""
        join_distributions()
        return super().__new__(cls)


def join_distributions() -> None:
    """Make :class:`Callback` a callback of all distributions imported so far."""
    for name in _DISTRIBUTIONS:
        base = getattr(sys.modules.get(name), "Callback", None)  # not there yet while it is being imported
        if base is not None and not issubclass(Callback, base):
            Callback.__bases__ = (*Callback.__bases__, base)
