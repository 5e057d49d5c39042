"""Tell once of numbers that are not finite."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

_LOOK_EVERY = 256  # calls: on an accelerator a look waits for it


class BrokenNumbers:
    """Warn once of modalities that are NaN or infinite.

    On a CPU each call is looked at, on an accelerator now and then, since a look waits for it.

    Args:
        what: whose numbers, for the message.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._told, self._calls = False, 0

    def look(self, tensors: Mapping[str, Tensor | None]) -> None:
        """Look at a batch's; infinitely low scores are those of masked classes."""
        if self._told or torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return
        self._calls += 1
        for name, value in tensors.items():
            if value is None or not (value.device.type == "cpu" or self._calls % _LOOK_EVERY == 1):
                continue
            value = value.detach()
            if not bool(value.sum().isfinite()) and bool((value.isnan() | (value == torch.inf)).any()):
                self._told = True
                warnings.warn(
                    f"{self.what} of {name!r} are NaN or infinite for some samples, which count as missing it: look "
                    "at the data and weights, or say which samples miss it with mask=",
                    stacklevel=5,
                )
