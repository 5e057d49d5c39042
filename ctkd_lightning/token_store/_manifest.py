"""What a store says of itself, and the names of its files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ctkd_lightning._files import written_whole
from ctkd_lightning._reading import check_regular, read_json
from ctkd_lightning.errors import UserError
from ctkd_lightning.token_store._basis import Basis
from ctkd_lightning.token_store._records import Layout

FORMAT = 1
MANIFEST, BASIS = "manifest.json", "basis.safetensors"

Errors = dict[str, dict[str, float]]
"""Relative errors by temperature: of ``kl``, and of its gradients to ``hidden`` states and ``head``."""


@dataclass
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        format: of the files.
        teacher: its fingerprint, :func:`~ctkd_lightning.teacher_cache.key.cache_key`.
        vocabulary: V.
        rank: coefficients a token.
        bits: of each.
        top: largest logits that are kept exactly.
        whole: whether the coefficients are all that the head, or the sample of rows, has.
        tolerance: the largest relative error that was asked for; ``None`` where the rank was given.
        errors: as they were measured on held-out tokens before the store was written.
        measured_on: number of these.
        bytes_per_token: of the records.
        basis: check sum of the basis.
        complete: whether all documents are there.
        documents: number of these.
        tokens: theirs.
        indices: check sum of each shard's index, by the shard's name.
    """

    teacher: str
    vocabulary: int
    rank: int
    bits: int
    top: int
    whole: bool
    tolerance: float | None
    errors: Errors
    measured_on: int
    bytes_per_token: int
    basis: str
    complete: bool = False
    documents: int = 0
    tokens: int = 0
    indices: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def layout(self) -> Layout:
        """Of a record."""
        return Layout(self.rank, self.top, self.vocabulary, 16 if self.bits == 16 else 8)

    def write(self, folder: Path) -> None:
        """Put it in its place, whole."""
        with written_whole(folder / MANIFEST) as partial:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """That of a folder.

        Raises:
            UserError: there is none, or one of another format, or damaged.
        """
        path = folder / MANIFEST
        try:
            found: Any = read_json(path)
        except FileNotFoundError:
            raise UserError(
                f"{folder} is no token store, it has no {MANIFEST}: write one with python -m ctkd_lightning.store"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(_damaged(path)) from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            version = found.get("format") if isinstance(found, dict) else None
            raise UserError(
                f"{folder} is a token store of format {version}, and this version reads format {FORMAT}: write it anew"
            )
        if found.keys() != {entry.name for entry in fields(cls)} or not _sound(found):
            raise UserError(_damaged(path))
        return cls(**found)


def _sound(found: dict[str, Any]) -> bool:
    """Whether the entries are what a store writes, above all those that sizes and files' names are made of."""
    numbers = ("vocabulary", "rank", "top", "bits", "documents", "tokens")
    indices, errors = found["indices"], found["errors"]
    return (
        all(type(found[name]) is int and 0 <= found[name] < 2**48 for name in numbers)
        and isinstance(indices, dict)
        and all(name.isdigit() for name in indices)
        and isinstance(errors, dict)
        and all(isinstance(of_tau, dict) for of_tau in errors.values())
        and isinstance(found["teacher"], str)
    )


def save_basis(basis: Basis, folder: Path) -> str:
    """Write the basis; its check sum."""
    path = folder / BASIS
    with written_whole(path) as partial:
        save_file({"mean": basis.mean.cpu(), "directions": basis.directions.cpu().contiguous()}, partial)
    return check_sum(path)


def load_basis(folder: Path, manifest: Manifest) -> Basis:
    """Read the basis.

    Raises:
        UserError: it is missing, damaged, or another's.
    """
    path = folder / BASIS
    try:
        check_regular(path)
        same = check_sum(path) == manifest.basis
        tensors: dict[str, torch.Tensor] = load_file(path) if same else {}
    except (OSError, SafetensorError) as error:
        raise UserError(_damaged(path)) from error
    if not tensors or tensors["directions"].shape != (manifest.vocabulary, manifest.rank):
        raise UserError(_damaged(path))
    return Basis(tensors["mean"], tensors["directions"])


def check_sum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while piece := file.read(2**20):
        digest.update(piece)
    return digest.hexdigest()


def _damaged(path: Path) -> str:
    return f"{path} is missing or damaged: remove the folder {path.parent} and write the token store anew"
