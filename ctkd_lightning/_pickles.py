"""Pickles that are small and become large, found before they are read."""

from __future__ import annotations

import pickletools
from typing import IO, Any, NamedTuple

_TUPLE = 10_000  # items in a tuple, one in the other: a tuple is hashed anew wherever it is a key
_ENCODE = ("_codecs", "encode")
_BYTES = (("builtins", "bytearray"), ("__builtin__", "bytearray"))


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


def _follow(file: IO[bytes]) -> None:
    stack: list[_Item] = []
    below: list[list[_Item]] = []
    memo: dict[int, _Item] = {}
    argument: Any
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
    if function == _ENCODE and (len(arguments) < 2 or arguments[1] != "latin1"):
        raise ValueError(f"bytes in the encoding {arguments[1] if len(arguments) > 1 else 'of the system'}")
    if function in _BYTES and any(isinstance(argument, int) for argument in arguments):
        raise ValueError("bytes that are not in the file")
