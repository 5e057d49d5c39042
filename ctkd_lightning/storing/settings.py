"""What the writing of a store is asked for, checked before anything is read or built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from ctkd_lightning._files import user_path
from ctkd_lightning._store_settings import check_store_settings
from ctkd_lightning.errors import UserError

SUFFIXES = (".npy", ".safetensors")
DEVICES = ("auto", "cpu", "cuda")
"""Not Apple's, which has no float64."""


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """The keys of ``conf/store.yaml``.

    Attributes:
        teacher: a folder or name of transformers, or ``package.module:name``.
        tokens: the file of token ids.
        output: the folder of the store.
        tolerance: the largest relative error that is let pass.
        top: largest logits that are kept exactly.
        rank: coefficients a token; ``None`` for as many as the tolerance needs.
        batch_size: documents at once.
        device: one of :data:`DEVICES`.
    """

    teacher: str
    tokens: Path
    output: Path
    tolerance: float = 0.03
    top: int = 16
    rank: int | None = None
    batch_size: int = 8
    device: str = "auto"


def read_settings(cfg: DictConfig) -> StoreSettings:
    """Read and check the configuration of a store.

    Raises:
        UserError: naming the setting that cannot be.
    """
    for key, what in (("teacher", "a model"), ("tokens", "a file"), ("output", "a folder")):
        if not isinstance(cfg[key], str) or not cfg[key]:
            raise UserError(f"{key} must be {what}, found {cfg[key]}: {key}=VALUE")
    tokens, output = user_path(cfg.tokens), user_path(cfg.output)
    if tokens.suffix not in SUFFIXES:
        raise UserError(f"tokens: expected a file whose name ends in {' or '.join(SUFFIXES)}, found {tokens}")
    if not tokens.is_file():
        raise UserError(f"tokens: {tokens} is not there, or no file: give the file of token ids")
    if output.exists() and not output.is_dir():
        raise UserError(f"output: {output} is a file: give a folder")
    check_store_settings(cfg.tolerance, cfg.top, cfg.rank, cfg.batch_size)
    if cfg.device not in DEVICES:
        raise UserError(f"device must be {', '.join(DEVICES)}, found {cfg.device}")
    return StoreSettings(
        teacher=cfg.teacher,
        tokens=tokens,
        output=output,
        tolerance=cfg.tolerance,
        top=int(cfg.top),
        rank=None if cfg.rank is None else int(cfg.rank),
        batch_size=int(cfg.batch_size),
        device=cfg.device,
    )
