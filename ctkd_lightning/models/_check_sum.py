"""What tells weights from others, and damaged ones from whole ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

CHECK_SUM = "ctkd_lightning.sha256"
"""In the metadata of the files that this package writes."""


def fingerprint(state_dict: Mapping[str, Tensor]) -> str:
    """A hash of names, types, shapes and values; the order of the entries and their device do not matter.

    Returns:
        64 hexadecimal digits (SHA-256).

    Example:
        >>> weights = {"scale": torch.ones(2), "shift": torch.zeros(2)}
        >>> fingerprint(weights) == fingerprint({"shift": torch.zeros(2), "scale": torch.ones(2)})
        True
        >>> fingerprint(weights) == fingerprint({"scale": torch.ones(2), "shift": torch.zeros(2).half()})
        False
    """
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)  # as bytes: NumPy has no bfloat16
    return digest.hexdigest()


def check_sum(state_dict: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """A hash of weights and of what their file says of them, itself left out: safetensors has none of its own."""
    said = sorted((name, value) for name, value in metadata.items() if name != CHECK_SUM)
    return hashlib.sha256(f"{fingerprint(state_dict)} {said!r}".encode()).hexdigest()
