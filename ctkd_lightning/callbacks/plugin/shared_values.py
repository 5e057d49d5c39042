"""Values that child processes train and the process that started them sees."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn


class SharedValues:
    """What modules keep in a checkpoint, in memory that child processes share.

    Strategies that fork or spawn train copies of all objects in child processes, and bring only the module's own
    weights back. A child calls :meth:`detach` before it trains and its first process :meth:`write_back` at the end.

    Args:
        modules: whose parameters and persistent buffers to share, those on the CPU.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._modules = modules
        self._process = os.getpid()
        self._detached: list[tuple[Tensor, Tensor]] = []  # a tensor, and its storage in shared memory
        self.share()

    def share(self) -> None:
        """Move the values to shared memory, those that are not there."""
        if os.getpid() != self._process:
            return
        for tensor in self._tensors():
            try:
                tensor.share_memory_()
            except RuntimeError:  # a machine without shared memory: nothing is lost before there are children
                return

    def detach(self) -> bool:
        """In a child process, go on with values of its own: its siblings have the same memory.

        Returns:
            Whether :meth:`write_back` will reach the process that made this.
        """
        if os.getpid() == self._process or self._detached:
            return True
        tensors = self._tensors()
        self._detached = [(tensor, tensor.detach()) for tensor in tensors if tensor.is_shared()]
        for tensor in tensors:
            tensor.data = tensor.detach().clone()
        return len(self._detached) == len(tensors)

    def write_back(self) -> None:
        """In a child process, put its values where the process that started it sees them."""
        with torch.no_grad():
            for tensor, shared in self._detached:
                shared.copy_(tensor)

    def _tensors(self) -> list[Tensor]:
        tensors = [t for module in self._modules for t in module.state_dict(keep_vars=True).values()]
        return [t for t in tensors if isinstance(t, Tensor) and t.device.type == "cpu"]
