"""A network's weights from and to files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.models.checkpoint import read_state_dict, without_wrappers
from ctkd_lightning.models.head import find_classifier


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into a network, completely or not at all.

    For what a checkpoint may look like see :func:`~ctkd_lightning.models.checkpoint.read_state_dict`. Names and shapes
    are compared first, so that a network is never left half loaded; only the batch counters of batch normalisation,
    which old files lack, may be missing.

    Args:
        model: the network, compiled or not, on any device.
        path: the file.

    Raises:
        UserError: a file that cannot be read, or one that holds another architecture or number of classes, or values
            that are not finite.
    """
    state = read_state_dict(path)
    network = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    _check_names(network, state, path)
    _check_shapes(network, state, path)
    _check_finite(network, state, path)
    network.load_state_dict(state)


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write a network's weights as safetensors; the file appears whole or not at all.

    Args:
        model: the network, compiled or not, on any device.
        path: a name that ends in ``.safetensors``; folders are made.

    Raises:
        UserError: another ending.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"weights are saved as safetensors: the name must end in .safetensors, found {path}")
    # cloned, since safetensors refuses tensors that share memory
    state = {
        without_wrappers(name): tensor.detach().cpu().contiguous().clone()
        for name, tensor in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(safetensors.torch.save(state, metadata={"format": "pt"}))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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


def _check_names(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    expected = model.state_dict()
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    # parameters first, which say more than counters
    unexpected = sorted(state.keys() - expected.keys(), key=lambda name: (name.endswith("num_batches_tracked"), name))
    if missing or unexpected:
        raise UserError(
            f"{path} holds another architecture than this {type(model).__name__}: of its {len(expected)} entries "
            f"{len(missing)} are missing{_first(missing)}, and {len(unexpected)} of the file are unknown to it"
            f"{_first(unexpected)}; create the model that the weights belong to"
        )


def _check_shapes(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    expected = model.state_dict()
    wrong = [name for name in state if state[name].shape != expected[name].shape]
    if not wrong:
        return
    name = wrong[0]
    found, wanted = tuple(state[name].shape), tuple(expected[name].shape)
    head = find_classifier(model)
    if all(name.rpartition(".")[0] == head for name in wrong) and found[1:] == wanted[1:]:
        raise UserError(
            f"{path}: the checkpoint has {found[0]} classes, the model {wanted[0]}; "
            f"create the model with num_classes={found[0]}, or give weights for {wanted[0]} classes"
        )
    raise UserError(
        f"{path} holds another width of {type(model).__name__}: {len(wrong)} of {len(expected)} shapes differ, "
        f"first {name}, {found} in the file and {wanted} in the model; create the model that the weights belong to"
    )


def _check_finite(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    for name, own in model.state_dict().items():
        if name in state and not state[name].to(own.dtype).isfinite().all():  # as the network will hold it
            raise UserError(
                f"{path} holds values that are not finite, first in {name}: its training diverged, or the file is "
                "damaged; give other weights, or train them anew"
            )


def _first(names: list[str], limit: int = 3) -> str:
    return f" ({', '.join(names[:limit])}{', …' if len(names) > limit else ''})" if names else ""
