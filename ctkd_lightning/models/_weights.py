"""A network's weights from and to files."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from ctkd_lightning._files import user_path, written_whole
from ctkd_lightning.errors import UserError
from ctkd_lightning.features._head import find_classifier
from ctkd_lightning.models._check_sum import CHECK_SUM, check_sum, fingerprint
from ctkd_lightning.models._checkpoint import bare_names, read_state_dict, read_state_dicts
from ctkd_lightning.models._outline import Entry, Outline
from ctkd_lightning.models._part import Part, find_part

__all__ = ["fingerprint", "load_weights", "read_state_dict", "save_weights", "serialized_size"]


def load_weights(model: nn.Module, path: str | Path, *, prefix: str | None = None) -> None:
    """Load a checkpoint into a network, completely or not at all.

    The file is one of ``torch.save``, Lightning or safetensors; none is read that would run code. The network may lie
    under any key, such as ``state_dict`` or ``net``, and any prefix, such as ``model.`` or ``student.``, beside other
    networks and numbers: it is where all of its names are. Names and shapes are compared first, so that a network is
    never left half loaded. Only the batch counters of batch normalisation, which old files lack, may be missing. Counts
    that profilers and averaging leave in a network are passed over, other entries beside it with a warning, unless
    ``prefix`` chose the part; a weight in it that it does not have is an error.

    Args:
        model: the network, compiled or not, on any device.
        path: the file.
        prefix: the part of the file to load, where several fit: a prefix, a key, or both as ``"key.prefix"``; the empty
            string for names without a prefix.

    Raises:
        UserError: a file that cannot be read, or one that holds another architecture or number of classes, several
            networks that fit, nothing under ``prefix``, or values that are not finite.

    Example:
        >>> load_weights(student, "distilled.ckpt", prefix="student")  # doctest: +SKIP
    """
    network = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    outline = Outline(network)
    if not outline.required:
        raise UserError(f"this {type(network).__name__} has no weights: there is nothing of {path} to load into it")
    part = find_part(outline, read_state_dicts(path), path, prefix)
    where = f"{path} under {part.label!r}" if part.label else str(path)
    _check_names(network, outline, part, where)
    _check_shapes(network, outline, part, where)
    state = {name: part.tensors[name] for name in outline.names if name in part.tensors}
    _check_finite(outline, state, where)
    beside = outline.entries(part.tensors, Entry.BESIDE)
    if beside and prefix is None:
        warnings.warn(f"{where} holds entries beside the weights that are not loaded{_first(beside)}", stacklevel=2)
    network.load_state_dict({outline.names[name]: tensor for name, tensor in state.items()})


def save_weights(model: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a network's weights as safetensors; the file appears whole or not at all.

    Args:
        model: the network, compiled or not, on any device.
        path: a name that ends in ``.safetensors``; folders are made.
        metadata: what else the file shall say.

    Raises:
        UserError: another ending.
    """
    path = user_path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"weights are saved as safetensors: the name must end in .safetensors, found {path}")
    with written_whole(path) as partial:
        partial.write_bytes(_serialized(model, metadata))


def serialized_size(model: nn.Module) -> int:
    """Bytes of the file that :func:`save_weights` writes."""
    return len(_serialized(model))


def _serialized(model: nn.Module, metadata: Mapping[str, str] | None = None) -> bytes:
    own = model.state_dict()
    # cloned, since safetensors refuses tensors that share memory
    tensors = [tensor.detach().cpu().contiguous().clone() for tensor in own.values()]
    state = dict(zip(bare_names(own), tensors, strict=True))
    said = {"format": "pt", **(metadata or {})}
    return _in_order(safetensors.torch.save(state, metadata={**said, CHECK_SUM: check_sum(state, said)}))


def _in_order(file: bytes) -> bytes:
    """A safetensors file with its metadata by name: the library writes them in another order each time."""
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + file[start:]


def _check_names(model: nn.Module, outline: Outline, part: Part, where: str) -> None:
    missing, foreign = outline.missing(part.tensors), outline.entries(part.tensors, Entry.FOREIGN)
    if not missing and foreign and all(part.tensors[name].numel() == 1 for name in foreign):
        raise UserError(
            f"{where} holds all weights of this {type(model).__name__}, and in it {len(foreign)} numbers that it does "
            f"not have{_first(foreign)}; create the model that they belong to, or remove them from the file"
        )
    if missing or foreign:
        unknown = outline.entries(part.tensors, Entry.FOREIGN, Entry.BESIDE, Entry.COUNTER)
        raise UserError(
            f"{where} holds another architecture than this {type(model).__name__}: of its {len(outline.names)} entries "
            f"{len(missing)} are missing{_first(missing)}, and {len(unknown)} of the file are unknown to it"
            f"{_first(unknown)}; create the model that the weights belong to"
        )


def _check_shapes(model: nn.Module, outline: Outline, part: Part, where: str) -> None:
    wrong = outline.other_shapes(part.tensors)
    if not wrong:
        return
    name = wrong[0]
    found, wanted = tuple(part.tensors[name].shape), tuple(outline.state[name].shape)
    head = find_classifier(model)
    if all(outline.names[name].rpartition(".")[0] == head for name in wrong) and found[1:] == wanted[1:]:
        raise UserError(
            f"{where}: the checkpoint has {found[0]} classes, the model {wanted[0]}; "
            f"create the model with num_classes={found[0]}, or give weights for {wanted[0]} classes"
        )
    raise UserError(
        f"{where} holds another width of {type(model).__name__}: {len(wrong)} of {len(outline.names)} shapes differ, "
        f"first {name}, {found} in the file and {wanted} in the model; create the model that the weights belong to"
    )


def _check_finite(outline: Outline, state: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in state.items():
        if not tensor.to(outline.state[name].dtype).isfinite().all():  # as the network will hold it
            raise UserError(
                f"{where} holds values that are not finite, first in {name}: its training diverged, or the file is "
                "damaged; give other weights, or train them anew"
            )


def _first(names: list[str], limit: int = 3) -> str:
    return f" ({', '.join(names[:limit])}{', …' if len(names) > limit else ''})" if names else ""
