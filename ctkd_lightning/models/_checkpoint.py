"""Reading the weights in a checkpoint file, without running code from it."""

from __future__ import annotations

import io
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ctkd_lightning._files import user_path
from ctkd_lightning._pickles import check_pickles
from ctkd_lightning._reading import check_regular
from ctkd_lightning._words import printable
from ctkd_lightning.errors import UserError
from ctkd_lightning.models._bounds import MOST_ITEMS, check_archive, check_tensors
from ctkd_lightning.models._check_sum import CHECK_SUM, check_sum

_SIGNATURES = (b"PK\x03\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.")  # torch.save since 1.6, and before
_ZIP = _SIGNATURES[0]
_LEGACY = 5  # pickles of a file before torch 1.6: magic number, version, system, content, keys
_DEPTH = 50  # of dictionaries, one in the other
WRAPPERS = ("module", "_orig_mod")  # DistributedDataParallel, torch.compile
PLAIN_PLACES = ("state_dict", "model", "")  # the keys that a network's weights usually lie under, or none
_NETWORK_PREFIXES = ("student.", "network.")  # where this package's training modules keep the network


class DamagedCheckpoint(UserError):
    """A file that cannot be read as weights: empty, truncated, damaged, or never a checkpoint."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a network's weights from a file of ``torch.save``, Lightning or safetensors, onto the CPU.

    The weights may be the whole dictionary or lie under a key, beside numbers such as the epoch or a NumPy accuracy:
    ``state_dict`` or ``model``, else the key with the most tensors. The prefixes of data parallelism and of
    ``torch.compile`` are removed from the names, and of this package's training checkpoints only the trained network is
    kept. A file that would have to run code to be read is refused: there is no unsafe way round.

    Args:
        path: the file; ``.safetensors`` by its ending, else a checkpoint of ``torch.save``.

    Returns:
        The tensors by name, in the file's order.

    Raises:
        DamagedCheckpoint: a file that is empty, truncated, damaged or no checkpoint.
        UserError: a file that is missing, unsafe, or holds no weights, or several times as many under as many keys.
    """
    return main_part(read_state_dicts(path), path)


def read_state_dicts(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """Read all dictionaries of tensors in a file, by their keys.

    Args:
        path: as in :func:`read_state_dict`.

    Returns:
        The tensors by name under each key, ``outer.inner`` where it is nested and the empty string for the file's own
        entries, in the file's order; ``_orig_mod``, which ``torch.compile`` writes, is removed from the names.

    Raises:
        DamagedCheckpoint: a file that is empty, truncated, damaged or no checkpoint.
        UserError: a file that is missing, unsafe, or holds no weights.
    """
    path = user_path(path)
    check_file(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    places = _state_dicts(content, path)
    for name in (name for place, tensors in places.items() for name in (place, *tensors)):
        if printable(name) != name:
            raise UserError(f"{path} names a weight with control characters, {name}: save it under another name")
    if not places:
        raise UserError(
            f"{path} holds no weights: expected a dictionary of tensors, alone or under a key such as 'state_dict'; "
            f"found {_describe(content)}"
        )
    return places


def main_part(places: Mapping[str, Mapping[str, Tensor]], path: str | Path) -> dict[str, Tensor]:
    """Of a file's dictionaries the weights that :func:`read_state_dict` promises.

    Raises:
        UserError: several dictionaries, under other keys than the usual ones, with the same number of tensors.
    """
    usual = [place for place in ("state_dict", "model") if place in places]
    most = max(len(tensors) for tensors in places.values())
    largest = [place for place, tensors in places.items() if len(tensors) == most]
    if not usual and len(largest) > 1:
        raise UserError(
            f"{path} holds {len(largest)} times {most} tensors, under {', '.join(map(repr, largest))}: "
            f"choose one, load_weights(model, path, prefix={largest[0]!r})"
        )
    return _network_part(places[(usual or largest)[0]])


def without_wrappers(name: str) -> str:
    """A parameter's name as in the bare network.

    Example:
        >>> without_wrappers("module._orig_mod.conv1.weight")
        'conv1.weight'
    """
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in WRAPPERS:
        parts = parts[1:]
    return _without_compile(".".join(parts))


def bare_names(names: Iterable[str]) -> list[str]:
    """The names of all of a network's parameters as in the bare network; a part that is called module keeps its name.

    Example:
        >>> bare_names(["module.conv1.weight", "module.fc._orig_mod.weight"])
        ['conv1.weight', 'fc.weight']
        >>> bare_names(["module.conv1.weight", "head.weight"])
        ['module.conv1.weight', 'head.weight']
    """
    names = [_without_compile(name) for name in names]
    while names and all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    return names


def check_file(path: Path) -> None:
    """Refuse what is no file that can be read.

    Raises:
        UserError: saying what is there instead.
    """
    if not path.exists():
        raise UserError(f"no such checkpoint: {path}; give the path of a .pth, .ckpt or .safetensors file")
    if path.is_dir():
        raise UserError(f"{path} is a directory; give the path of a .pth, .ckpt or .safetensors file in it")
    if check_regular(path) == 0:
        raise DamagedCheckpoint(
            f"{path} is empty; it was not written to its end, or not downloaded: fetch or save it again"
        )
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}; give a file that you may read") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load_file(path)
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
        if CHECK_SUM in said and said[CHECK_SUM] != check_sum(tensors, said):
            raise ValueError("the check sum is wrong")
        return tensors
    # beside its own error the reader has KeyError of types that torch lacks, and what torch says of shapes
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise DamagedCheckpoint(
            f"{path} is truncated, damaged or no safetensors file ({error}); fetch or save it again"
        ) from error


def read_pickle(path: Path) -> object:
    """What ``torch.save`` wrote, without running any code.

    Raises:
        UserError: a damaged file, another kind of file, or one that would run code or become far larger than it is.
    """
    check_file(path)
    try:
        _check_before(path)
        with torch.serialization.safe_globals(_numpy_scalars()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of a protocol that it may not read; what follows says it better
            content = torch.load(path, map_location="cpu", weights_only=True)
    # on bytes that are no pickle the reader raises what it stumbles on: KeyError, EOFError, OSError, RuntimeError …
    except Exception as error:
        raise _diagnose(path, error) from error
    try:
        check_tensors(content)
    except ValueError as error:
        raise DamagedCheckpoint(f"{path} holds {error}, and is refused: save its weights alone again") from error
    return content


class _Unbounded(Exception):
    """What a file holds that torch.save does not write."""


def _check_before(path: Path) -> None:
    """Look at the file before it is read: at the check sums that torch.load passes over, and at what it would make."""
    try:
        if not _start(path).startswith(_ZIP):
            if tarfile.is_tarfile(path):
                raise ValueError("a tar archive, as before torch 0.2")
            with path.open("rb") as file:
                check_pickles(file, _LEGACY)
            return
        reader = torch._C.PyTorchFileReader(str(path))  # torch.load's: an archive can have a table for each reader
        records = reader.get_all_records()
        if "constants.pkl" in records:
            return  # a TorchScript program, which torch.load refuses by itself
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sorted(entry.filename.partition("/")[2] for entry in entries) != sorted(records):
                raise ValueError("two tables of contents")
            check_archive(entries, path.stat().st_size)
            if not any(entry.CRC for entry in entries):  # left out by torch.serialization.set_crc32_options
                for entry in entries:
                    del entry.CRC  # not to be compared
            elif (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the check sum of {damaged} is wrong")
            check_pickles(io.BytesIO(reader.get_record("data.pkl")))
    except ValueError as error:
        raise _Unbounded(str(error)) from error


def _diagnose(path: Path, error: Exception) -> UserError:
    unsafe = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if unsafe or "TorchScript" in str(error):
        what = f"would run code to be read ({unsafe[1]})" if unsafe else "is a TorchScript program, not weights,"
        return UserError(
            f"{path} {what} and is refused; save its state_dict() alone, or as safetensors, where you trust it"
        )
    if isinstance(error, _Unbounded) and _start(path).startswith(_SIGNATURES):
        return DamagedCheckpoint(f"{path} is damaged or not of torch.save ({error}); fetch or save it again")
    start, size = _start(path), path.stat().st_size
    if start.startswith(_SIGNATURES):
        return DamagedCheckpoint(f"{path} is truncated or damaged, {size} bytes are there; fetch or save it again")
    return DamagedCheckpoint(
        f"{path} is no checkpoint: expected a file of torch.save, or the ending .safetensors; "
        f"found {size} bytes that start with {start!r}"
    )


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def _numpy_scalars() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What unpickling a NumPy number calls, harmless, under the names of NumPy 1 and 2."""
    scalar: Any = np.float64(0).__reduce__()[0]
    numbers = (np.float64, np.float32, np.float16, np.int64, np.int32, np.bool_)
    return [
        (scalar, "numpy._core.multiarray.scalar"),
        (scalar, "numpy.core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(number)) for number in numbers),
    ]


def _state_dicts(content: object, path: Path) -> dict[str, dict[str, Tensor]]:
    """All dictionaries of tensors by their keys, in the file's order."""
    found: dict[str, dict[str, Tensor]] = {}
    met = 0
    ahead: list[tuple[object, str, tuple[int, ...]]] = [(content, "", ())]
    while ahead:
        node, place, above = ahead.pop()
        if not isinstance(node, Mapping) or id(node) in above:  # a pickle may hold itself
            continue
        met += 1 + len(node)
        if met > MOST_ITEMS or len(above) > _DEPTH:
            raise UserError(f"{path} holds too many entries, one in the other: save the weights alone")
        named = {name: value for name, value in node.items() if isinstance(name, str)}
        tensors = {_without_compile(name): value for name, value in named.items() if isinstance(value, Tensor)}
        if tensors:
            found[place] = tensors
        inner = [(value, f"{place}.{name}" if place else name) for name, value in named.items()]
        ahead += [(value, name, (*above, id(node))) for value, name in reversed(inner)]
    return found


def _without_compile(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _describe(content: object, limit: int = 5) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    keys = [str(key) for key in content]
    if not keys:
        return "an empty dictionary"
    return f"the keys {', '.join(keys[:limit])}{', …' if len(keys) > limit else ''}"


def _network_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors = {without_wrappers(name): tensor for name, tensor in tensors.items()}
    for prefix in _NETWORK_PREFIXES:
        part = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if part:
            return {without_wrappers(name): tensor for name, tensor in part.items()}
    return tensors
