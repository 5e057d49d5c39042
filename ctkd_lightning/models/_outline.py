"""What a network's weights are called, and what else may lie among them in a file."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import torch
from torch import Tensor, nn

from ctkd_lightning.models._checkpoint import bare_names

_COUNTERS = (
    "n_averaged",
    "num_batches_tracked",
    "total_ops",
    "total_params",
)  # of AveragedModel, batch norm, profilers


class Entry(Enum):
    """What an entry of a file is to a network."""

    OWN = "one of its weights"
    COUNTER = "a count that somebody kept in it"
    BESIDE = "of something beside it"
    FOREIGN = "a weight in it that it does not have"


class Outline:
    """The names and shapes of a network's state.

    Args:
        network: not compiled as a whole; its parts may be, and it may be wrapped for data parallelism.

    Attributes:
        names: the network's own name of each entry, by the name in the bare network.
        state: the entries by their names in the bare network.
        required: what a file must have: all but the batch counters of batch normalisation, which old files lack.
    """

    def __init__(self, network: nn.Module) -> None:
        state = network.state_dict()
        self.names = dict(zip(bare_names(state), state, strict=True))
        self.state = {bare: state[name] for bare, name in self.names.items()}
        self.required = {name for name in self.names if not name.endswith("num_batches_tracked")}
        modules = bare_names([name for name, _ in network.named_modules() if name])
        self._roots = {_stem(name) for name in (*modules, *self.names)}
        self._in_float64 = any(tensor.dtype == torch.float64 for tensor in state.values())

    def missing(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """The required names that ``tensors`` lack, in the network's order."""
        return [name for name in self.names if name in self.required and name not in tensors]

    def entries(self, tensors: Mapping[str, Tensor], *kinds: Entry) -> list[str]:
        """The names in ``tensors`` of some kinds, sorted, batch counters last."""
        names = [name for name, tensor in tensors.items() if self._kind(name, tensor) in kinds]
        return sorted(names, key=lambda name: (name.endswith("num_batches_tracked"), name))

    def other_shapes(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """The network's names whose shapes differ in ``tensors``, in the file's order."""
        return [
            name for name, tensor in tensors.items() if name in self.state and tensor.shape != self.state[name].shape
        ]

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether ``tensors`` hold the whole network, and no weights in it that it does not have."""
        return (
            self.required <= tensors.keys()
            and not self.other_shapes(tensors)
            and not self.entries(tensors, Entry.FOREIGN)
        )

    def _kind(self, name: str, tensor: Tensor) -> Entry:
        if name in self.names:
            return Entry.OWN
        if tensor.numel() == 1 and self._is_count(name, tensor):
            return Entry.COUNTER
        # a fourth stage beside three, layer4 beside layer3, is a deeper network
        if _stem(name) not in self._roots and ("." in name or tensor.numel() == 1):
            return Entry.BESIDE
        return Entry.FOREIGN

    def _is_count(self, name: str, tensor: Tensor) -> bool:
        number = not (tensor.is_floating_point() or tensor.is_complex())
        precise = tensor.dtype == torch.float64 and not self._in_float64
        return number or precise or name.rpartition(".")[2] in _COUNTERS


def _stem(name: str) -> str:
    return name.partition(".")[0].rstrip("0123456789")
