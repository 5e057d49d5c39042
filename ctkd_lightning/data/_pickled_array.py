"""Reading an object array of a .npy file, without running code from it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ctkd_lightning._pickles import check_pickles
from ctkd_lightning._reading import check_regular
from ctkd_lightning.errors import UserError


def read_object(path: Path) -> Any:
    """What ``numpy.save`` wrote of one Python object: arrays and numbers, text, lists, tuples and dictionaries.

    Such a file is a pickle. This reader admits from it the making of NumPy's arrays alone: a file that would have to
    run anything else is refused, where ``numpy.load(path, allow_pickle=True)`` would run it.

    Args:
        path: a ``.npy`` file of an object array without dimensions.

    Raises:
        UserError: a file that is missing, damaged, of another kind, or unsafe.
    """
    try:
        check_regular(path, _MOST)
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            if shape != () or not dtype.hasobject:
                raise ValueError(f"an array of shape {shape} and type {dtype}")
            start = file.tell()
            check_pickles(file)
            file.seek(start)
            return _ArraysOnly(file).load().item()
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: give the folder that holds it") from error
    except _WouldRunCode as error:
        raise UserError(f"{path} would run code to be read ({error}) and is refused: take the original file") from error
    # on bytes that are no pickle the reader raises what it stumbles on: KeyError, EOFError, TypeError …
    except Exception as error:
        found = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{path} is damaged or no .npy file of an object ({found}): fetch it again") from error


class _WouldRunCode(Exception):
    pass


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _NEEDED.get((module.replace("numpy._core", "numpy.core"), name))  # NumPy 2's name and NumPy 1's
        if found is None:
            raise _WouldRunCode(f"{module}.{name}")
        return found


def _bytes(text: str, encoding: str) -> bytes:
    """How early pickle protocols write bytes; ``_codecs.encode`` itself would look for any encoding's module."""
    if encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding}")
    return text.encode("latin1")


class _Ndarray:
    """Stands for the class in a pickle, which names it and must not make one: of any size, without its values."""


def _empty_array(kind: object, shape: object, code: object) -> np.ndarray:
    """An array as each pickled one begins; its state, which follows, must have as many bytes as its shape says."""
    if kind is not _Ndarray or shape != (0,):
        raise ValueError(f"an array of shape {shape} without values")
    return np.empty(0)


_make_scalar: Any = np.float64(0).__reduce__()[0]
_MOST = 2**30  # bytes of a file
_NEEDED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.multiarray", "scalar"): _make_scalar,
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _bytes,
}
