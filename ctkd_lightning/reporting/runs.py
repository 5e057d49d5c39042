"""The runs of a page: found, read, and those named that do not count."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from ctkd_lightning._files import user_path
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.earlier import read_run
from ctkd_lightning.job.explain import described
from ctkd_lightning.job.metrics import Series, read_series
from ctkd_lightning.job.outputs import TestOutputs
from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.job.summary import Summary

ALONE = "student alone"


@dataclass
class ReportedRun:
    """A distillation that is complete.

    Attributes:
        files: its folder.
        summary: what it came to.
        configuration: its own.
        series: from each metric's name to (epoch from 1, value).
    """

    files: RunDirectory
    summary: Summary
    configuration: DictConfig
    series: dict[str, Series]

    @property
    def arm(self) -> str:
        """What is compared: method and temperature, without the seed; ``"student alone"`` of ``method=none``."""
        summary = self.summary
        if summary.teacher is None:
            return ALONE
        temperature = "" if "temperature" in summary.without_effect else f", {summary.temperature} τ"
        return f"{summary.method}{temperature}"

    @property
    def outputs(self) -> TestOutputs | None:
        """What its networks gave for the test samples, read at each use; ``None`` where it kept none.

        Raises:
            UserError: a damaged file.
        """
        return TestOutputs.read(self.files)


@dataclass(frozen=True)
class LeftOut:
    """A folder that does not count.

    Attributes:
        path: the folder.
        why: in one line.
    """

    path: Path
    why: str


@dataclass
class Runs:
    """What a page is over.

    Attributes:
        runs: those that count, all tested on the same samples.
        left_out: those that do not.
    """

    runs: list[ReportedRun]
    left_out: list[LeftOut]


def find_runs(patterns: Sequence[str]) -> list[Path]:
    """The folders of runs: as they are named, of a sweep's folder all within it, and by globs.

    Raises:
        UserError: no pattern, or one that names nothing.
    """
    if not patterns:
        raise UserError("runs is empty: name run directories, as in runs=[outputs/2026-01-01/*]")
    found: dict[Path, Path] = {}
    for pattern in patterns:
        named = sorted(glob.glob(os.fspath(user_path(str(pattern)))))
        folders = [Path(name) for name in named if os.path.isdir(name)]
        if not folders:
            raise UserError(f"no folder at {pattern}: name run directories, sweep folders or globs of them")
        for folder in folders:
            inner = sorted((path.parents[1] for path in folder.glob("**/.hydra/config.yaml")), key=_by_number)
            if not inner and folder.name != ".hydra":
                inner = [folder]
            for run in inner:
                found.setdefault(run.resolve(), run)  # a run that is named twice is one
    return list(found.values())


def _by_number(path: Path) -> tuple[object, ...]:
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.parts)


def read_runs(folders: Sequence[Path], *, own: bool = False) -> Runs:
    """Read runs. What is unfinished, damaged, no distillation, or of other test data than most is left out.

    Args:
        folders: theirs.
        own: whether this command has itself trained them.
    """
    runs, left_out = [], []
    for folder in folders:
        try:
            runs.append(_read(folder, own))
        except Exception as error:  # one that is damaged in whatever way shall not hide the others
            left_out.append(LeftOut(folder, described(error)))
    if runs:
        most = Counter(_tested_on(run) for run in runs).most_common(1)[0][0]
        for run in [run for run in runs if _tested_on(run) != most]:
            runs.remove(run)
            left_out.append(
                LeftOut(run.files.path, f"tested on {_tested_on(run)[0]}, other samples than most of the runs")
            )
    return Runs(runs, left_out)


def _tested_on(run: ReportedRun) -> tuple[str, str | None, int | None]:
    summary = run.summary
    return summary.data, summary.test_data, summary.num_classes


def _read(folder: Path, own: bool) -> ReportedRun:
    run = read_run(folder, own=own)
    summary = run.summary
    if not isinstance(summary, Summary):
        raise UserError("a fusion of modalities: its table and figures are in its folder")
    if summary.status != "complete":
        raise UserError(f"unfinished: {summary.status} in stage {summary.stage}; go on with it by resume=auto")
    try:
        series = read_series(run.files.metrics)
    except (ValueError, OSError) as error:
        raise UserError(f"{run.files.metrics.name} is damaged: {error}") from error
    if run.files.metrics.is_file():
        last = max((epoch for values in series.values() for epoch, _ in values), default=0)
        if last < summary.epochs:
            raise UserError(
                f"{run.files.metrics.name} is damaged: it ends with epoch {last:g} of {summary.epochs}; repeat the run"
            )
    return ReportedRun(run.files, summary, run.configuration, series)
