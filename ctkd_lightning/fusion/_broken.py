"""Tell once of numbers that are not finite."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

_LOOK_EVERY = 256  # calls: on an accelerator a look waits for it


def finite_rows(x: Tensor) -> Tensor:
    """Which rows (N, …) hold no NaN and no infinite number."""
    if not x.is_floating_point():
        return torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
    size = x.detach().abs()
    greatest = size if x.ndim == 1 else size.flatten(1).amax(dim=1)
    return greatest < torch.inf  # not so of NaN, which a maximum carries on


class BrokenNumbers:
    """Warn once of modalities that are NaN or infinite and that nobody said were missing.

    On a CPU each call is looked at, on an accelerator now and then, since a look waits for it.
    """

    def __init__(self) -> None:
        self._told = False
        self._calls: dict[str, int] = {}

    def look(self, what: str, names: Sequence[str], lost: Tensor) -> None:
        """Look at a batch.

        Args:
            what: whose numbers, for the message.
            names: of K modalities.
            lost: (N, K), bool: what counts as missing for its numbers alone.
        """
        if self._told or torch.compiler.is_compiling():
            return
        calls = self._calls[what] = self._calls.get(what, 0) + 1
        if (lost.device.type == "cpu" or calls % _LOOK_EVERY == 1) and bool(lost.any()):
            self._told = True
            name = names[int(lost.any(dim=0).int().argmax())]
            warnings.warn(
                f"{what} of {name!r} are NaN or infinite for some samples, which count as missing it: look at the "
                "data and weights, or say which samples miss it with mask=",
                stacklevel=5,
            )
