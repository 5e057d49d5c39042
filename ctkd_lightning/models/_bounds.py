"""Bounds for what a checkpoint becomes in memory: a small file can name far more than it holds."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

MOST_ITEMS = 1_000_000
"""Entries of a checkpoint, one in the other, counted as a walk over them meets them."""

_CODE = {"_target_", "_instantiator"}  # Hydra's, and Lightning's up to 2.6.5
_SHARED = 16  # how often the tensors may name the same bytes: tied weights do so twice
_HARMLESS = 2**26  # bytes that tensors may always come to


def check_archive(entries: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Refuse an archive that torch.save has not written: it packs nothing, and each byte belongs to one entry.

    Args:
        entries: the checkpoint's.
        size: of its file, bytes.

    Raises:
        ValueError: saying what is wrong.
    """
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("two entries of the same name")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("packed entries, which torch.save does not write")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its entries name more bytes than the file has")


def check_tensors(content: object) -> None:
    """Refuse tensors that are more than the file holds, or that no network on a CPU can take.

    Raises:
        ValueError: saying which kind.
    """
    named, stored, seen = 0, {}, set()
    open_ends = [content]
    while open_ends:
        node = open_ends.pop()
        if isinstance(node, Tensor):
            named += _bytes(node)
            stored[node.untyped_storage().data_ptr()] = node.untyped_storage().nbytes()
        elif (children := _children(node)) is not None and id(node) not in seen:
            seen.add(id(node))
            open_ends += children
    if named > max(_SHARED * sum(stored.values()), _HARMLESS):
        raise ValueError("tensors that name the same bytes again and again")


def _bytes(tensor: Tensor) -> int:
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
        kind = "quantized" if tensor.is_quantized else f"{tensor.layout} {tensor.device.type}"
        raise ValueError(f"a tensor of another kind ({kind})")
    named, there = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if named > max(there, _HARMLESS):  # an expanded buffer is more than its bytes
        raise ValueError(f"a tensor {tuple(tensor.shape)}, of which the file has {there} bytes")
    return named


def check_nesting(content: object) -> None:
    """Refuse the names of code, and what a walk does not come to the end of: lists that hold themselves, or each other.

    Raises:
        ValueError: there is such a thing.
    """
    sizes: dict[int, int] = {}
    open_ends: list[tuple[object, bool]] = [(content, False)]
    while open_ends:
        node, entered = open_ends.pop()
        children = _children(node)
        if children is None or (id(node) in sizes and not entered):
            if children is not None and sizes[id(node)] < 0:
                raise ValueError("something that holds itself")
            continue
        if isinstance(node, Mapping) and (named := _CODE & node.keys()):
            raise ValueError(f"the name of code to make, {', '.join(sorted(named))}")
        if entered:
            sizes[id(node)] = 1 + sum(sizes.get(id(child), 1) for child in children)
            if sizes[id(node)] > MOST_ITEMS:
                raise ValueError(f"more than {MOST_ITEMS:,} entries, one in the other")
        else:
            sizes[id(node)] = -1
            open_ends.append((node, True))
            open_ends += [(child, False) for child in children]


def _children(node: object) -> list[object] | None:
    if isinstance(node, Mapping):
        return [*node.keys(), *node.values()]
    return list(node) if isinstance(node, list | tuple | set) else None
