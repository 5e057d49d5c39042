"""Checks and conversions that the losses share."""

from __future__ import annotations

import torch
from torch import Tensor

from ctkd_lightning.errors import UserError


def at_least_float32(x: Tensor) -> Tensor:
    """Widen half precision to float32; leave float32 and float64 alone."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_logits(student: Tensor, teacher: Tensor) -> None:
    """Refuse logits whose shapes differ.

    Raises:
        UserError: naming both shapes.
    """
    if student.shape != teacher.shape:
        raise UserError(
            f"student logits have shape {tuple(student.shape)} and teacher logits {tuple(teacher.shape)}: "
            "both networks must score the same samples and classes"
        )


def check_temperature(temperature: float | Tensor, logits: Tensor) -> Tensor:
    """Return the temperature as a tensor on the logits' device, in float32 or wider.

    A tensor's values are not looked at: that would wait for the device at each step.

    Args:
        temperature: a float, a scalar tensor, or one per sample or position.
        logits: (..., C).

    Raises:
        UserError: a float that is not positive, or a tensor that fits neither the samples nor the positions.
    """
    if not isinstance(temperature, Tensor):
        if not temperature > 0:
            raise UserError(f"temperature must be positive, found {temperature}")
        return logits.new_full((), float(temperature))  # filled on the device: no copy from the host
    positions = logits.shape[:-1]
    fits = temperature.ndim <= len(positions) and temperature.shape == positions[: temperature.ndim]
    column = temperature.ndim == 2 and positions and temperature.shape == (positions[0], 1)
    if not (temperature.numel() == 1 or fits or column):
        raise UserError(
            f"temperature has shape {tuple(temperature.shape)}: expected a scalar, one per sample ({positions[0]},) "
            f"or ({positions[0]}, 1), or one per position {tuple(positions)}"
        )
    return at_least_float32(temperature)


def per_position(temperature: Tensor, like: Tensor) -> Tensor:
    """Shape a temperature so that it broadcasts over ``like`` from the left: (B,) or (B, 1) to (B, 1, …, 1).

    Left to itself, broadcasting would align (B,) with the classes.
    """
    if temperature.numel() == 1:
        return temperature.reshape(())
    if temperature.ndim == 2 and temperature.shape[1] == 1:
        temperature = temperature.squeeze(1)
    return temperature.reshape(temperature.shape + (1,) * (like.ndim - temperature.ndim))
