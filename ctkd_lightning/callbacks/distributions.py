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
    user has imported it, by the time that a callback is made.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Callback:
        """Make a callback of all distributions imported so far."""
        imported = [sys.modules[name].Callback for name in _DISTRIBUTIONS if name in sys.modules]
        missing = [base for base in imported if not issubclass(Callback, base)]
        if missing:
            Callback.__bases__ = (*Callback.__bases__, *missing)
        return super().__new__(cls)
