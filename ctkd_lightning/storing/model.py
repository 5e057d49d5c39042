"""The teacher that a command names."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ctkd_lightning._files import user_path
from ctkd_lightning.errors import UserError


def load_model(name: str, device: str) -> nn.Module:
    """A causal language model of transformers, or a module of the user's own code, on a device.

    Args:
        name: a folder; a name on the hub; or ``package.module:name``, a module or a function that returns one.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: there is no such model, or no such device.
    """
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise UserError(f"device={device} is not on this machine: take auto or cpu")
    folder = user_path(name)
    own = not folder.exists() and re.fullmatch(r"[\w.]+:\w+", name)
    network = _of_code(*name.split(":")) if own else _of_transformers(name, folder)
    return network.to("cuda" if there and device != "cpu" else "cpu")


def _of_code(module: str, name: str) -> nn.Module:
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"teacher: {module}:{name} is not there ({error}): package.module:name names it") from error
    if not isinstance(found, nn.Module) and callable(found):
        found = found()
    if not isinstance(found, nn.Module):
        raise UserError(
            f"teacher: {module}:{name} is a {type(found).__name__}: expected a torch module, or a function without "
            "arguments that returns one"
        )
    return found


def _of_transformers(name: str, folder: Path) -> nn.Module:
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise UserError(
            f"teacher={name} is a model of transformers, which is not installed: pip install transformers, or name a "
            "module of your own, package.module:name"
        ) from error
    try:
        network: nn.Module = AutoModelForCausalLM.from_pretrained(folder if folder.exists() else name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"teacher: transformers cannot load {name}: {reason}") from error
    return network
