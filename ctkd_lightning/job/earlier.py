"""What an earlier run left, for the commands that look at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.configuration import read_configuration
from ctkd_lightning.job.explain import USER_ERRORS, described
from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.job.summary import FusionSummary, Summary, read_summary
from ctkd_lightning.models._factory import check_source

_IMAGES = "${oc.env:CTKD_CACHE_DIR,${oc.env:HOME,.}/.cache/ctkd_lightning}/images"  # as in conf/data
_NETWORKS = {"detection": "detectors", "segmentation": "segmenters", "language": "language models"}
_ENDED = ("complete", "stopped", "failed")


@dataclass(frozen=True)
class EarlierRun:
    """A run that has ended.

    Attributes:
        files: its folder.
        configuration: its own, whose ``run_dir`` is where it lies now.
        summary: what it came to.
    """

    files: RunDirectory
    configuration: DictConfig
    summary: Summary | FusionSummary


def read_run(path: str | Path, *, own: bool = False) -> EarlierRun:
    """Read a run that has ended, well or not.

    Args:
        path: its folder.
        own: as in :func:`~ctkd_lightning.job.configuration.read_configuration`.

    Raises:
        UserError: no run there, a summary that is missing or damaged, or a run that is going on.
    """
    files = RunDirectory(path)
    if not files.path.is_dir():
        raise UserError(f"no folder at {files}: give the run_dir of a run")
    configuration, summary = read_configuration(files.path, own=own), read_summary(files)
    if summary is None:
        found = "is damaged" if files.summary.is_file() else "is missing"
        raise UserError(f"{files.summary} {found}: repeat the run, or go on with it by resume=auto")
    if summary.status not in _ENDED:
        raise UserError(
            f"the run in {files} is going on, or was killed (stage {summary.stage}): wait for its end, or go on with "
            "the same settings, this run_dir and resume=auto"
        )
    return EarlierRun(files, configuration, summary)


def decode_into_own_cache(cfg: DictConfig) -> None:
    """Keep what is decoded for a run that may be somebody else's where this user keeps it, wherever the run says."""
    if OmegaConf.select(cfg, "data.cache_dir") is not None:
        cfg.data.cache_dir = _IMAGES


@contextmanager
def explained_run(path: str | Path) -> Iterator[None]:
    """Say in a line what is wrong with a run whose configuration is none that a run could have had.

    Raises:
        UserError: naming the run.
    """
    try:
        yield
    except USER_ERRORS:
        raise
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, RecursionError) as error:
        raise UserError(
            f"the run in {path} cannot be built again ({described(error)}): its configuration is damaged, or of "
            "another version"
        ) from error


def need_student(run: EarlierRun) -> Summary:
    """The summary of a distillation that has a student.

    Raises:
        UserError: a fusion, or a run that ended before its student had weights.
    """
    summary = run.summary
    if not isinstance(summary, Summary):
        raise UserError(f"the run in {run.files} is a fusion and has no student: give the folder of a distillation")
    if summary.task != "classification":
        raise UserError(
            f"the run in {run.files} is of {_NETWORKS[summary.task]}, and this command takes classifiers: its "
            f"summary.json and report have the numbers, {run.files.student.name} the student's weights"
        )
    if not run.files.student.is_file():
        raise UserError(
            f"the run in {run.files} ended as {summary.status} without a student ({run.files.student.name} is "
            "missing): go on with the same settings, this run_dir and resume=auto"
        )
    for role in ("teacher", "student"):
        node = run.configuration.model[role]
        check_source(node.get("name"), node)
    return summary
