"""Random numbers as a function of keys: the same for a sample whatever its batch, process or device.

The keys go through the finaliser of Steele et al., *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 2⁶⁴ / φ, odd, as a signed number
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685


def mix(key: Tensor, stream: Tensor | int) -> Tensor:
    """Well mixed int64 numbers of keys and the number of a stream; the shapes broadcast."""
    x = key + (torch.as_tensor(stream) + 1) * _GOLDEN  # as a tensor it wraps around
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # without the sign


def uniform(key: Tensor, stream: Tensor | int) -> Tensor:
    """Numbers in [0, 1), float32."""
    return _shifted(mix(key, stream), 40).float() * 2.0**-24


def normal(key: Tensor, shape: torch.Size, stream: int) -> Tensor:
    """(B, *shape) standard normal numbers of keys (B,), float32 (Box and Muller's)."""
    places = torch.arange(shape.numel(), device=key.device)
    own = mix(key, stream).unsqueeze(-1)
    radius = (-2 * (1 - uniform(own, 2 * places)).log()).sqrt()
    return (radius * (2 * math.pi * uniform(own, 2 * places + 1)).cos()).reshape(-1, *shape)
