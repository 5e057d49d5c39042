"""Which positions count: targets that are to be ignored, as cross-entropy's ignore_index does, and masks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ctkd_lightning._scores.scores import same_places
from ctkd_lightning.errors import UserError

_FEW = 1024  # up to which Python finds a number sooner than numpy begins


def kept_targets(target: Tensor, index: int) -> Tensor:
    """Where a target is another than ``index``, which need not be within the target's type: 156 is no -100 in uint8.

    Example:
        >>> kept_targets(torch.tensor([156, 1], dtype=torch.uint8), -100)
        tensor([True, True])
    """
    return (target if target.is_floating_point() else target.long()) != index


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
            if not _holds(target.detach(), self.index):
                return None
            self.seen = True
            return kept_targets(target, self.index)
        kept = kept_targets(target, self.index)
        if self._any is None:
            self._any = ~kept.all()
            self.look()
        else:
            self._any |= ~kept.all()
        return kept

    def look(self) -> None:
        """See whether the batches so far had any; waits for the device."""
        self.seen = self.seen or (self._any is not None and bool(self._any))


def _holds(target: Tensor, index: int) -> bool:
    if target.numel() <= _FEW:
        return index in target.flatten().tolist()
    numbers = target.float() if target.dtype == torch.bfloat16 else target  # which numpy has not
    return bool(np.count_nonzero(numbers.numpy() == index))


def fit_mask(mask: Tensor, positions: torch.Size) -> Tensor:
    """A mask with one entry a position, from one that has that, or one entry a sample.

    Raises:
        UserError: another shape, or no tensor.
    """
    if not isinstance(mask, Tensor):
        raise UserError(f"mask must be a tensor with one entry a position or a sample, found a {type(mask).__name__}")
    if mask.shape == positions:
        return mask
    if same_places(mask.shape, positions):
        return mask.reshape(positions)
    wide = mask.reshape(mask.shape + (1,) * (len(positions) - mask.ndim))  # one entry a sample
    if mask.shape[:1] == positions[:1] and _spreads(wide.shape, positions):
        return wide.expand(positions)
    raise UserError(
        f"mask has shape {tuple(mask.shape)}, the logits' positions are {tuple(positions)}: pass one entry a position, "
        "or one a sample"
    )


def _spreads(shape: torch.Size, positions: torch.Size) -> bool:
    return len(shape) == len(positions) and all(a in (1, b) for a, b in zip(shape, positions, strict=True))
