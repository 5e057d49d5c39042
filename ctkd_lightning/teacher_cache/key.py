"""A name for a teacher: for what it gives, whatever its file is called."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import torch
from torch import nn

FORMAT = 1  # counts the ways in which records have been made: a new one must not read an old one's file


def cache_key(teacher: nn.Module, *what: Any) -> str:
    """A name for everything that decides what a teacher gives: hexadecimal, the same on every machine.

    What neither the weights nor ``repr(teacher)`` show is not in it, such as a ``forward`` that reads an attribute, or
    whose code changes: use another folder then.

    Args:
        teacher: its class, its layers with their settings, and its weights' names, shapes and values count.
        *what: whatever else does: the data's fingerprint, the precision, the layers that are read.
    """
    architecture = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(teacher))  # functions' addresses: others in each process
    kind = (type(teacher).__module__, type(teacher).__qualname__)
    digest = hashlib.sha256(repr((FORMAT, *kind, architecture, *what)).encode())
    for name, tensor in teacher.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
