"""Tell once of numbers that are not finite."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

_LOOK_EVERY = 256  # calls: on an accelerator a look waits for it


class BrokenNumbers:
    """Warn once of modalities that are NaN or infinite and that nobody said were missing.

    On a CPU each call is looked at, on an accelerator now and then, since a look waits for it.
    """

    def __init__(self) -> None:
        self._told = False
        self._calls: dict[str, int] = {}

    def look(self, what: str, lost: Mapping[str, Tensor]) -> None:
        """Look at a batch.

        Args:
            what: whose numbers, for the message.
            lost: by modality, truth values: what counts as missing for its numbers alone.
        """
        if self._told or torch.compiler.is_compiling():
            return
        calls = self._calls[what] = self._calls.get(what, 0) + 1
        for name, some in lost.items():
            if (some.device.type == "cpu" or calls % _LOOK_EVERY == 1) and bool(some.any()):
                self._told = True
                warnings.warn(
                    f"{what} of {name!r} are NaN or infinite for some samples, which count as missing it: look at the "
                    "data and weights, or say which samples miss it with mask=",
                    stacklevel=5,
                )
                return
