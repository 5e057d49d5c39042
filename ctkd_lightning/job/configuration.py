"""Compose the configuration, and read that of an earlier run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ctkd_lightning._reading import read_text
from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.job.trusted import check_content, check_yaml


def _folder(path: object) -> str:
    if path is None or str(path).strip() == "":
        raise UserError("run_dir must be a folder, found none: give one, or leave run_dir out")
    return os.path.expanduser(str(path))


OmegaConf.register_new_resolver("expanduser", _folder, replace=True)

_CONFIGURATION = 128 * 2**10  # bytes: those of a run have some thousands
_FOLDER_IN_0_1 = "${hydra:runtime.output_dir}"  # what version 0.1 wrote for the run's own folder


def config_dir() -> str:
    """The folder of the configuration: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return str(installed if installed.is_dir() else package.parent / "conf")


def compose(overrides: Sequence[str] = (), name: str = "config", *, return_hydra_config: bool = False) -> DictConfig:
    """The configuration under overrides, as the command line would compose it."""
    with _beside_an_application(), hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        overrides = [with_home(override) for override in overrides]
        return hydra.compose(name, overrides=overrides, return_hydra_config=return_hydra_config)


@contextmanager
def _beside_an_application() -> Iterator[None]:
    """Let a Hydra application, such as a command of this package, compose a second configuration."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before


def options(group: str) -> list[str]:
    """The choices of a config group, sorted."""
    return sorted(path.stem for path in Path(config_dir(), group).glob("*.yaml"))


def with_home(override: str) -> str:
    """``key=~/path`` with the home directory in its place: not every shell does so, and to Hydra ``~`` is an error.

    Example:
        >>> with_home("seed=1")
        'seed=1'
    """
    key, _, value = override.partition("=")
    return f"{key}='{os.path.expanduser(value)}'" if value.startswith("~/") or value == "~" else override


def one_network(override: str) -> str:
    """``model=NAME`` of one network as ``model.name=NAME``: to Hydra ``model=`` is a group, whose choices are pairs.

    Example:
        >>> one_network("model=resnet20"), one_network("model=vgg13_to_vgg8")
        ('model.name=resnet20', 'model=vgg13_to_vgg8')
    """
    key, equals, value = override.partition("=")
    return f"model.name={value}" if key == "model" and equals and value not in options("model") else override


def read_configuration(run_dir: str | Path, *, own: bool = False) -> DictConfig:
    """The configuration of a run, from its ``.hydra/config.yaml``; ``run_dir`` in it is where the run is now.

    Args:
        run_dir: the run's folder.
        own: whether this command has itself trained the run, and so has used its code already.

    Raises:
        UserError: no such file, a damaged one, or one that names code that nobody trusts.
    """
    run = RunDirectory(run_dir)
    path = run.configuration
    if not path.is_file():
        raise UserError(f"{run} is no run's folder: no file at {path}; give the run_dir of a run")
    try:
        text = read_text(path, _CONFIGURATION).replace(_FOLDER_IN_0_1, "${run_dir}")
        check_yaml(text)
        cfg = OmegaConf.create(text)
    except UserError:
        raise
    except (YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged ({reason}): restore it, or repeat the run") from error
    if not isinstance(cfg, DictConfig):
        raise UserError(f"{path} is damaged (no configuration of a run): restore it, or repeat the run")
    cfg.run_dir = str(run)
    check_content(OmegaConf.to_container(cfg, resolve=False), path, _named_by_the_package(), own)
    return cfg


@cache
def _named_by_the_package() -> frozenset[str]:
    texts = (path.read_text() for path in Path(config_dir()).rglob("*.yaml"))
    return frozenset(name for text in texts for name in re.findall(r"_target_: ([\w.]+)", text))


def set_keys(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Set single keys of a configuration that is composed already.

    Raises:
        UserError: a word that is no ``key=value``, a key that there is not, or a group.
    """
    for override in overrides:
        key, equals, value = override.partition("=")
        found = OmegaConf.select(cfg, key, default=MISSING, throw_on_resolution_failure=False)
        if not equals:
            raise UserError(f"{override}: write key=value")
        if found == MISSING:
            parent = OmegaConf.select(cfg, key.rpartition(".")[0]) if "." in key else cfg
            options = parent if isinstance(parent, DictConfig) else cfg
            raise UserError(
                f"no key {key} in the run's configuration: {suggest(key.rpartition('.')[2], map(str, options))}"
            )
        if isinstance(found, DictConfig) and not value.startswith("{"):
            raise UserError(f"{override}: of a run's configuration single keys can be set, and {key} has several")
    cfg.merge_with_dotlist(list(overrides))


def plain(cfg: Any) -> dict[str, Any]:
    """A node as plain Python."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]
