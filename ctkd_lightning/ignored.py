"""Targets that are to be ignored, as cross-entropy's ignore_index does."""

from __future__ import annotations

import torch
from torch import Tensor


class IgnoredTargets:
    """Find the positions whose target is ``ignore_index``.

    On a CPU the numbers lie at hand, and batches without any need no mask. On other devices a look at them would wait
    at each step: there is always a mask, and whether it leaves anything out is looked up once in a while.

    Args:
        index: the target that says so.

    Attributes:
        seen: whether there has been one, as far as is known.
    """

    def __init__(self, index: int = -100) -> None:
        self.index = index
        self.seen = False
        self._any: Tensor | None = None

    def mask(self, target: Tensor) -> Tensor | None:
        """The positions to keep, the target's shape; ``None`` where these are all."""
        if target.device.type == "cpu" and not torch.compiler.is_compiling():
            if not (target.detach().numpy() == self.index).any():
                return None
            self.seen = True
            return target != self.index
        kept = target != self.index
        if self._any is None:
            self._any = ~kept.all()
            self.look()
        else:
            self._any |= ~kept.all()
        return kept

    def look(self) -> None:
        """See whether the batches so far had any; waits for the device."""
        self.seen = self.seen or (self._any is not None and bool(self._any))
