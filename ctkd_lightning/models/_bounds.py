"""Bounds for what a checkpoint becomes in memory: a small file can name far more than it holds."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Mapping, Sequence
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

MOST_ITEMS = 1_000_000
"""Entries of a checkpoint, one in the other, counted as a walk over them meets them."""

_TUPLE = 10_000  # items in a tuple, likewise: a tuple is hashed anew wherever it is a key
_SHARED = 16  # how often the tensors may name the same bytes: tied weights do so twice
_PICKLES = 5  # of a file before torch 1.6: magic number, version, system, content, keys
_ENCODE = {("_codecs", "encode")}
_BYTES = {("builtins", "bytearray"), ("__builtin__", "bytearray")}


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


class _Item(NamedTuple):
    """What lies on the unpickler's stack: how many items it comes to in the end, and what it is where that matters."""

    size: int = 1
    value: Any = None


def check_pickles(file: IO[bytes], number: int = 1) -> None:
    """Follow pickles without making anything, and refuse what would take for ever or all of the memory.

    The unpickler admits only harmless calls, but hashes a tuple that holds itself twice, thirty levels deep, for hours.

    Args:
        file: at the start of the first one.
        number: how many there are.

    Raises:
        ValueError: saying what there is.
    """
    for _ in range(number):
        try:
            _follow(file)
        except (IndexError, KeyError) as error:
            raise ValueError("no pickle") from error


def check_legacy(file: IO[bytes]) -> None:
    """:func:`check_pickles` of a file that torch wrote before 1.6."""
    check_pickles(file, _PICKLES)


def _follow(file: IO[bytes]) -> None:
    stack: list[_Item] = []
    below: list[list[_Item]] = []
    memo: dict[int, _Item] = {}
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name == "MARK":
            below.append(stack)
            stack = []
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            count = len(stack) if name == "TUPLE" else int(name[-1])
            items = stack[len(stack) - count :]
            stack = below.pop() if name == "TUPLE" else stack[: len(stack) - count]
            stack.append(_tuple(items))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            _check_call(function.value, arguments.value)
            stack.append(_Item(arguments.size))
        else:
            if pickletools.markobject in opcode.stack_before:
                stack = below.pop()
            plain = sum(kind not in (pickletools.markobject, pickletools.stackslice) for kind in opcode.stack_before)
            del stack[len(stack) - plain :]
            value = tuple(argument.split(" ", 1)) if name == "GLOBAL" else argument
            stack += [_Item(1, value) for _ in opcode.stack_after]


def _tuple(items: list[_Item]) -> _Item:
    size = 1 + sum(item.size for item in items)
    if size > _TUPLE:
        raise ValueError(f"a tuple of more than {_TUPLE:,} items")
    return _Item(size, tuple(item.value for item in items[:2]))


def _check_call(function: Any, arguments: Any) -> None:
    arguments = arguments if isinstance(arguments, tuple) else ()
    if function in _ENCODE and (len(arguments) < 2 or arguments[1] != "latin1"):
        raise ValueError("text in another encoding than pickles have")
    if function in _BYTES and any(isinstance(argument, int) for argument in arguments):
        raise ValueError("bytes that are not in the file")


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
    if named > _SHARED * sum(stored.values()):
        raise ValueError("tensors that name the same bytes again and again")


def _bytes(tensor: Tensor) -> int:
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
        kind = "quantized" if tensor.is_quantized else f"{tensor.layout} {tensor.device.type}"
        raise ValueError(f"a tensor of another kind ({kind})")
    named, there = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if named > there:
        raise ValueError(f"a tensor {tuple(tensor.shape)}, of which the file has {there} bytes")
    return named


def check_nesting(content: object) -> None:
    """Refuse what a walk does not come to the end of: a list that holds itself, or the same list many times.

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
