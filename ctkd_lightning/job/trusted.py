"""What the configuration of an earlier run may say: its folder may come from anybody, and a ``_target_`` is code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from ctkd_lightning.errors import UserError

VARIABLE = "CTKD_TRUSTED"
"""Environment variable: the packages, separated by commas, whose classes a read configuration may name."""

_HOMES = ("ctkd_lightning", "torch.optim", "torch.nn", "lightning.pytorch", "lightning.fabric.plugins.environments")
_KINDS = (
    "torch.nn.Module",
    "torch.optim.Optimizer",
    "torch.optim.lr_scheduler.LRScheduler",
    "lightning.pytorch.Callback",
    "lightning.pytorch.LightningDataModule",
    "lightning.pytorch.loggers.Logger",
    "lightning.pytorch.strategies.Strategy",
    "lightning.pytorch.plugins.precision.Precision",
    "lightning.fabric.plugins.environments.ClusterEnvironment",
)
"""Classes of these kinds only compute: what is of one of them, and is defined in one of the homes, may be named."""

_LIBRARIES = ("torch", "torchvision", "torchmetrics", "lightning", "pytorch_lightning", "hydra", "omegaconf", "timm")

_DEPTH, _GROWN, _PHRASE = 32, 2**20, 1000
_RESOLVERS = "oc.env|oc.select|now|expanduser|hydra"
_INNERMOST = re.compile(rf"\$\{{(?:[\w.\-\[\]]+|(?:{_RESOLVERS.replace('.', '[.]')}):[^${{}}\[\]]*)\}}")
_REFERENCE = re.compile(r"\$\{(?:oc[.]select: *)?([\w.\-\[\]]+)")


def check_yaml(text: str) -> None:
    """Refuse YAML that is small and becomes large: aliases, and one thing in another without end.

    Raises:
        ValueError: saying what there is.
        yaml.YAMLError: the text is no YAML.
    """
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"an alias, *{event.anchor}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH:
            raise ValueError(f"more than {_DEPTH} levels")


def check_content(content: Any, path: Path, known: Collection[str], own: bool = False) -> None:
    """Refuse what a configuration that comes from a file shall not name.

    Allowed are what this package's own configuration names; optimizers, schedulers, callbacks, loggers, strategies,
    data and modules of torch, Lightning and this package; and whatever :data:`VARIABLE` trusts.

    Args:
        content: as plain Python, interpolations not resolved.
        path: its file, for the message.
        known: the names in the package's own configuration.
        own: whether this very process has trained from it: then it may name any code.

    Raises:
        UserError: naming the key.
    """
    for place, value in _nodes(content):
        key = ".".join(place)
        if "${" in place[-1] or (isinstance(value, str) and "${" in value and not _is_plain(value)):
            raise UserError(f"{path}: {key} holds an interpolation that is not read from a run's folder: {value!s:.80}")
        if place[-1] == "_target_" and value is not None and not own:
            _check_target(value, key, path, known)
    try:
        grown = _size(content, (), {})
    except RecursionError:
        grown = _GROWN + 1
    if grown > _GROWN:
        raise UserError(f"{path} is damaged: its interpolations refer to each other without end; restore the file")


def _check_target(target: object, key: str, path: Path, known: Collection[str]) -> None:
    if not isinstance(target, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", target):
        raise UserError(f"{path}: {key} is no name of a class: {str(target)[:80]}")
    if target in known or _is_of_a_kind(target) or _is_trusted(target):
        return
    package = target.partition(".")[0]
    package = target if package in _LIBRARIES else package  # of these nobody trusts the whole
    own = f"where you trust the run, and know {package}, set {VARIABLE}={package} in the environment"
    advice = "it is no run of this package" if package in sys.stdlib_module_names else own
    raise UserError(f"{path} names code that is not this package's, {key}={target}, and is refused: {advice}")


def _is_of_a_kind(target: str) -> bool:
    if not _within(target, _HOMES):
        return False
    found = _located(target)
    kinds = tuple(_located(kind) for kind in _KINDS)
    return isinstance(found, type) and _within(found.__module__, _HOMES) and issubclass(found, kinds)


def _is_trusted(target: str) -> bool:
    packages = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    # by what the object says, too: a trusted module has os.system within reach where it imports os
    return _within(target, packages) and _within(getattr(_located(target), "__module__", None) or "", packages)


def _located(name: str) -> Any:
    """A module's own object; ``None`` where there is none."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute, None)
    except ImportError:
        return None


def _within(name: str, packages: tuple[str, ...] | list[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _nodes(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in _items(content) or ():
        yield (*place, key), value
        yield from _nodes(value, (*place, key))


def _items(content: Any) -> Iterator[tuple[str, Any]] | None:
    if isinstance(content, Mapping):
        return ((str(key), value) for key, value in content.items())
    if isinstance(content, list | tuple):
        return ((str(position), value) for position, value in enumerate(content))
    return None


def _is_plain(text: str) -> bool:
    """Whether all interpolations are other keys' values or of harmless resolvers, whose arguments are no containers.

    A resolver such as ``oc.create`` would make a new ``_target_`` out of a text.
    """
    if len(text) > _PHRASE:
        return False
    while (peeled := _INNERMOST.sub("", text)) != text:
        text = peeled
    return "${" not in text and "_target_" not in text


def _size(root: Any, place: tuple[str, ...], seen: dict[tuple[str, ...], int]) -> int:
    """Values and letters below a place once all is resolved; more than :data:`_GROWN` where it refers to itself."""
    if place not in seen:
        seen[place] = _GROWN + 1  # as long as it is being looked at
        node = _at(root, place)
        items = _items(node)
        if items is not None:
            seen[place] = 1 + sum(_size(root, (*place, key), seen) for key, _ in items)
        else:
            text = node if isinstance(node, str) else ""
            named = (_place(name, place[:-1]) for name in _REFERENCE.findall(text))
            seen[place] = 1 + len(text) + sum(_size(root, other, seen) for other in named)
    return seen[place]


def _place(name: str, parent: tuple[str, ...]) -> tuple[str, ...]:
    """Where an interpolation leads: from the root, or with dots before it from the parent."""
    up = len(name) - len(name.lstrip("."))
    start = parent[: len(parent) - up + 1] if up else ()
    return (*start, *(part for part in re.split(r"[.\[\]]+", name) if part))


def _at(root: Any, place: tuple[str, ...]) -> Any:
    node = root
    for key in place:
        if isinstance(node, Mapping):
            node = node.get(key, node.get(int(key)) if key.isdecimal() else None)
        elif isinstance(node, list | tuple) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        else:
            return None
    return node
