"""A call's arguments as they were at the call, whoever writes into them."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ctkd_lightning.errors import UserError

Path = tuple[Any, ...]

_TRIED = 2  # calls in which a tensor that nobody wrote into is copied nevertheless
_WRITTEN = -1
_DEPTH = 2  # of objects within objects: a graph's data, and the store that it keeps them in


def map_tensors(value: Any, leaf: Callable[[Tensor, Path], Tensor], path: Path = (), depth: int = _DEPTH) -> Any:
    """A copy of nested containers, of their own types, with something else in the place of each tensor.

    Args:
        value: a tensor; a dict, list, tuple, named tuple, dataclass, ``UserDict`` or another object that holds some; or
            anything else, which stays as it is, as modules and functions do.
        leaf: from a tensor and where it is to what takes its place.
        path: of the value: position or name of an argument, then keys.
        depth: how many objects within each other are followed.

    Example:
        >>> map_tensors({"x": (torch.ones(2), None)}, lambda tensor, path: tensor + 1)
        {'x': (tensor([2., 2.]), None)}
    """
    if isinstance(value, Tensor):
        return leaf(value, path)
    if type(value) is list:  # the usual ones, made cheap
        return [map_tensors(part, leaf, (*path, i), depth) for i, part in enumerate(value)]
    if type(value) is dict:
        return {key: map_tensors(part, leaf, (*path, key), depth) for key, part in value.items()}
    parts = _parts(value, depth)
    if not parts:
        return _twin(value) if isinstance(value, dict | list | deque) else value
    depth -= _is_object(value)
    if isinstance(value, tuple):
        return _like_tuple(value, [map_tensors(part, leaf, (*path, key), depth) for key, part in parts])
    twin = _twin(value)
    if twin is value:  # what cannot be copied can still be read
        return value
    holds = False
    for key, part in _parts(twin, 1):  # a copy may have parts of its own already
        mapped = map_tensors(part, leaf, (*path, key), depth)
        if mapped is not part:
            _set(twin, key, mapped)
        holds = holds or mapped is not part or isinstance(part, Tensor)  # in whose place the value may get another
    return twin if holds or not _is_object(value) else value


def tensors_in(value: Any, depth: int = _DEPTH) -> Iterator[Tensor]:
    """All tensors in nested containers.

    Args:
        value: as in :func:`map_tensors`.
        depth: likewise.

    Example:
        >>> len(list(tensors_in([torch.ones(2), {"mask": torch.ones(2)}])))
        2
    """
    if isinstance(value, Tensor):
        yield value
        return
    for _, part in _parts(value, depth):
        yield from tensors_in(part, depth - _is_object(value))


class KeptArguments(NamedTuple):
    """A second set of a call's arguments: what is done to the first does not reach it, nor the other way round.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        guard: what made it.
        watched: where a tensor is, the call's own, its version at the call, and the one kept, which may be the same.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    guard: ArgumentGuard
    watched: tuple[tuple[Path, Tensor, int, Tensor], ...] = ()

    def check(self) -> None:
        """Look who wrote into the tensors since, and remember it for the calls to come.

        Raises:
            UserError: somebody wrote for the first time into a tensor that was found left alone in the calls before.
        """
        for path, given, version, kept in self.watched:
            if given is not kept:
                self.guard.learn(path, given._version != version or kept._version > 0 or not _same(given, kept))
            elif given._version != version:
                self.guard.complain(path)


class ArgumentGuard:
    """Keep a second set of arguments, at the price of copies only where somebody writes into them.

    Containers are copied at each call. Tensors are copied in their first calls, and from then on those that were
    written to, by a count that torch keeps (and, in the first calls, by their values, since writing through ``.data``
    or NumPy is not counted). Compiled code, where there is no count, copies all, but
    for a single tensor that was left alone in a call before it was compiled.

    Args:
        message: for the error; ``{where}`` is the argument.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        self._left_alone: dict[Path, int] = {}  # in how many calls

    def keep(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        convert: Callable[[Tensor], Tensor] | None = None,
    ) -> KeptArguments:
        """The arguments as they are now.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            convert: from a tensor to the one to keep in its place, a new one or the same.
        """
        if torch.compiler.is_compiling():
            return self._copy_all(args, kwargs, convert)
        if len(args) == 1 and not kwargs and convert is None:  # the usual call, made cheap
            (value,) = args
            if isinstance(value, Tensor) and self._left_alone.get((0,), 0) >= _TRIED and not value.is_inference():
                return KeptArguments(args, kwargs, self, (((0,), value, value._version, value),))
        watched: list[tuple[Path, Tensor, int, Tensor]] = []

        def leaf(tensor: Tensor, path: Path) -> Tensor:
            converted = tensor if convert is None else convert(tensor)
            return self._keep_tensor(tensor, path, watched) if converted is tensor else converted

        kept_args = tuple(map_tensors(x, leaf, (i,)) for i, x in enumerate(args))
        kept_kwargs = {name: map_tensors(x, leaf, (name,)) for name, x in kwargs.items()}
        return KeptArguments(kept_args, kept_kwargs, self, tuple(watched))

    def learn(self, path: Path, written: bool) -> None:
        """Remember whether somebody wrote into the tensor at this place."""
        calls = self._left_alone.get(path, 0)
        self._left_alone[path] = _WRITTEN if written or calls == _WRITTEN else calls + 1

    def complain(self, path: Path) -> None:
        """Say that somebody wrote into a tensor that is the only one.

        Raises:
            UserError: always; from the next call on the tensor is copied.
        """
        self._left_alone[path] = _WRITTEN
        name, *keys = path
        where = f"argument {name}" if isinstance(name, int) else str(name)
        raise UserError(self._message.format(where=where + "".join(f"[{key!r}]" for key in keys)))

    def _keep_tensor(self, tensor: Tensor, path: Path, watched: list[tuple[Path, Tensor, int, Tensor]]) -> Tensor:
        if tensor.is_inference():  # has no count
            return tensor.detach().clone()
        calls = self._left_alone.get(path, 0)
        if calls == _WRITTEN:
            return tensor.detach().clone()
        kept = tensor if calls >= _TRIED else tensor.detach().clone()
        watched.append((path, tensor, tensor._version, kept))
        return kept

    def _copy_all(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], convert: Callable[[Tensor], Tensor] | None
    ) -> KeptArguments:
        def kept(tensor: Tensor) -> Tensor:
            converted = tensor if convert is None else convert(tensor)
            return tensor.detach().clone() if converted is tensor else converted

        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and self._left_alone.get((0,), 0) > 0:
            (value,) = args
            return KeptArguments((value if convert is None else convert(value),), kwargs, self)
        kept_args, kept_kwargs = pytree.tree_map_only(Tensor, kept, (args, dict(kwargs)))
        return KeptArguments(kept_args, kept_kwargs, self)


def _like_tuple(value: tuple[Any, ...], entries: list[Any]) -> tuple[Any, ...]:
    if all(new is old for new, old in zip(entries, value, strict=True)):
        return value
    if type(value) is tuple:
        return tuple(entries)
    try:
        twin = tuple.__new__(type(value), entries)
    except TypeError:  # torch's own results
        return type(value)(entries)
    getattr(twin, "__dict__", {}).update(getattr(value, "__dict__", {}))
    return twin


def _parts(value: Any, depth: int) -> list[tuple[Any, Any]]:
    """What a container holds, by key, position or name; nothing for all else."""
    if value is None or isinstance(value, str | bytes | int | float):
        return []
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, tuple | list | deque):
        return list(enumerate(value))
    if depth <= 0 or not _is_object(value):
        return []
    parts = dict(getattr(value, "__dict__", {}))
    if dataclasses.is_dataclass(value):  # with slots it has no dictionary
        names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
        parts |= {name: getattr(value, name) for name in names}
    return list(parts.items())


def _is_object(value: Any) -> bool:
    """Whether a value may have inputs for attributes: no container, and nothing that can be called."""
    if isinstance(value, dict | tuple | list | deque | nn.Module | type | ModuleType) or callable(value):
        return False
    return hasattr(value, "__dict__") or dataclasses.is_dataclass(value)


def _twin(value: Any) -> Any:
    try:
        return copy.copy(value)
    except Exception:  # any class may refuse
        return value


def _set(owner: Any, key: Any, part: Any) -> None:
    if isinstance(owner, dict | list | deque):
        owner[key] = part
    elif key in getattr(owner, "__dict__", {}):
        vars(owner)[key] = part  # also where the class forbids it
    else:
        object.__setattr__(owner, key, part)


def _same(a: Tensor, b: Tensor) -> bool:
    if a.is_meta or a.layout != torch.strided or a.is_nested:  # which torch does not compare
        return True
    return torch.equal(a.detach(), b)
