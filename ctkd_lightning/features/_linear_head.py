"""The linear layer that gives a network's logits, and the network without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctkd_lightning.features._head import find_classifier

ALIKE = 1e-3
"""Of the largest logit: what the head gives is the network's logits, and neither cut off, scaled nor softened."""


class LinearHead:
    """The last linear layer of a network.

    Args:
        network: a language model or other classifier.

    Attributes:
        layer: ``None`` where there is none.
    """

    def __init__(self, network: nn.Module) -> None:
        found = dict(network.named_modules()).get(find_classifier(network))
        self.layer = found if isinstance(found, nn.Linear) else None

    def read_by(self, run: Callable[[], Tensor]) -> tuple[Tensor, Tensor | None]:
        """What a run gives, and what the head read (..., H); ``None`` if that is not what the logits are made of.

        Args:
            run: gives logits (..., V).
        """
        if self.layer is None:
            return run(), None
        read: list[Tensor] = []
        hook = self.layer.register_forward_pre_hook(lambda _, args: read.append(args[0]))
        try:
            logits = run()
        finally:
            hook.remove()
        if len(read) != 1 or read[0].shape[:-1] != logits.shape[:-1]:
            return logits, None
        again = F.linear(read[0], self.layer.weight, self.layer.bias)
        if again.shape != logits.shape or (again - logits).abs().max() > ALIKE * logits.abs().max():
            return logits, None
        return logits, read[0]

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Let the head give what it reads, so that the network's logits are its hidden states."""
        assert self.layer is not None
        before = self.layer.__dict__.get("forward")
        self.layer.forward = _given  # type: ignore[assignment]
        try:
            yield
        finally:
            del self.layer.forward
            if before is not None:
                self.layer.forward = before  # type: ignore[method-assign]


def _given(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden


@torch.no_grad()
def is_linear_head(head: LinearHead, run: Callable[[], Tensor]) -> bool:
    """Whether a network's logits are what its head gives, and nothing comes behind or beside it.

    What comes there may change nothing yet, as a cap on logits that are small still, or an adapter that is zero: so the
    network without its head must give what the head read, untouched.

    Args:
        head: of the network.
        run: of the network in eval mode, to its logits.
    """
    _, hidden = head.read_by(run)
    if hidden is None:
        return False
    with head.left_out():
        try:
            left = run()
        except RuntimeError:  # shapes that do not fit beside the head
            return False
    return left.shape == hidden.shape and torch.equal(left.to(hidden.dtype), hidden)
