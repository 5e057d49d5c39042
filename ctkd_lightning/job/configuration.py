"""Compose the configuration, and read that of an earlier run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import hydra
from omegaconf import DictConfig, OmegaConf

from ctkd_lightning.errors import UserError

OmegaConf.register_new_resolver("expanduser", lambda path: os.path.expanduser(str(path)), replace=True)

_FOLDER_IN_0_1 = "${hydra:runtime.output_dir}"  # what version 0.1 wrote for the run's own folder


def config_dir() -> str:
    """The folder of the configuration: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return str(installed if installed.is_dir() else package.parent / "conf")


def compose(overrides: Sequence[str] = (), name: str = "config", *, return_hydra_config: bool = False) -> DictConfig:
    """The configuration under overrides, as the command line would compose it."""
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        return hydra.compose(name, overrides=list(overrides), return_hydra_config=return_hydra_config)


def read_configuration(run_dir: str | Path) -> DictConfig:
    """The configuration of a run, from its ``.hydra/config.yaml``; ``run_dir`` in it is where the run is now.

    Raises:
        UserError: no such file.
    """
    folder = Path(run_dir).expanduser()
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder} is no run's folder: no file at {path}; give the run_dir of a run")
    cfg = cast(DictConfig, OmegaConf.create(path.read_text().replace(_FOLDER_IN_0_1, "${run_dir}")))
    cfg.run_dir = str(folder)
    return cfg


def plain(cfg: Any) -> dict[str, Any]:
    """A node as plain Python."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]
