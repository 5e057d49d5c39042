"""A network that is used and never trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class FrozenNetwork(nn.Module):
    """Hold a network for inference only: always in eval mode, without gradients, in no optimizer, in no checkpoint.

    The network is hidden from the module tree, so that ``parameters()``, ``state_dict()``, ``load_state_dict()``, DDP
    and optimizers of the owner never meet it (and loading stays strict), while moves of the owner to another device or
    type still reach it.

    Args:
        network: put into eval mode, its parameters' ``requires_grad`` turned off.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._hidden = [network.eval().requires_grad_(False)]
        self._parts = list(network.modules())  # kept: to walk the tree at each step takes ten times as long

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self._hidden[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output, without gradients."""
        network = self.network
        self._follow_device((*args, *kwargs.values()))
        if any(part.training for part in self._parts):  # someone reached in and flipped it
            network.eval()
        with torch.no_grad():  # a loss cannot save inference_mode's tensors for its backward pass
            return network(*args, **kwargs)

    def _follow_device(self, inputs: tuple[Any, ...]) -> None:
        # Strategies that move registered parameters one by one (FSDP) pass the hidden network by.
        tensor = next((x for x in inputs if isinstance(x, Tensor)), None)
        weight = next(self.network.parameters(), None)
        if tensor is not None and weight is not None and tensor.device != weight.device:
            self.network.to(tensor.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenNetwork:
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        """Name of the network's class."""
        return type(self.network).__name__
