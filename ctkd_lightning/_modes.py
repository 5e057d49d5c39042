"""Networks whose mode is another for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Modules in eval mode; afterwards each part is in its own mode again."""
    modes = {part: part.training for module in modules for part in module.modules()}
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextmanager
def left_as_it_was(network: nn.Module) -> Iterator[None]:
    """A network that is frozen meanwhile; afterwards each part has its mode and each parameter its gradient again."""
    modes = {part: part.training for part in network.modules()}
    learned = {parameter: parameter.requires_grad for parameter in network.parameters()}
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
        for parameter, requires_grad in learned.items():
            parameter.requires_grad_(requires_grad)
