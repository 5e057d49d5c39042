"""What ran: how the runs differ, their numbers, their software and hardware, and the commands that repeat them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from ctkd_lightning._reading import read_text
from ctkd_lightning.job.measures import MEASURES, SAMPLES, Measure
from ctkd_lightning.job.overrides import sets
from ctkd_lightning.job.summary import NetworkSummary
from ctkd_lightning.job.trusted import check_yaml
from ctkd_lightning.reporting.runs import ReportedRun
from ctkd_lightning.reporting.settings import differences
from ctkd_lightning.reporting.tables import NONE, Cell, Column, Table, count, number, seconds

_OVERRIDES = 64 * 2**10  # bytes of the file of them
_MOST_OF_A_VALUE = 60  # letters of a setting; longer ones make their column as wide as the page


@dataclass(frozen=True)
class Command:
    """What repeats a run.

    Attributes:
        run: its name on the page.
        line: of the command; ``None`` where the run has not kept it.
    """

    run: str
    line: str | None


def names(folders: list[Path]) -> dict[Path, str]:
    """Short names of folders: what tells them apart.

    Example:
        >>> list(names([Path("/a/sweep/0"), Path("/a/sweep/1")]).values())
        ['sweep/0', 'sweep/1']
    """
    whole = {folder: Path(os.path.abspath(folder)) for folder in folders}
    common = Path(os.path.commonpath([path.parent for path in whole.values()]))
    if len(whole) > 1:
        common = common.parent  # the folder that they share says what they are
    return {folder: path.relative_to(common).as_posix() for folder, path in whole.items()}


def runs_table(runs: list[ReportedRun], named: Mapping[Path, str]) -> Table:
    """A row a run: what tells it from the others, and the numbers of its ``summary.json``."""
    different = differences(runs)
    columns = [Column("run", words=True), *(Column(key, words=True) for key in different)]
    numbers = _numbers(runs)
    columns += [Column(title) for title in numbers]
    rows = []
    for position, run in enumerate(runs):
        row = [Cell(named[run.files.path])]
        row += [Cell(_shortened(values[position])) for values in different.values()]
        rows.append(row + [Cell(write(run)) for write in numbers.values()])
    words = ""
    if len(runs) > 1:
        words = "The settings that differ between the runs" if different else "No setting differs between the runs"
        words += ", and each run’s numbers."
    return Table("runs", "Runs", columns, rows, words=words)


def _numbers(runs: list[ReportedRun]) -> dict[str, Callable[[ReportedRun], str]]:
    task = runs[0].summary.task if runs else "classification"
    first, second = MEASURES[task]

    def of(network: NetworkSummary | None, measure: Measure) -> str:
        return number(getattr(network, measure.name, None), digits=measure.digits)

    return {
        f"student, test {first.title}": lambda run: of(run.summary.student, first),
        second.title: lambda run: of(run.summary.student, second),
        f"teacher, test {first.title}": lambda run: of(run.summary.teacher, first),
        "epochs": lambda run: str(run.summary.epochs),
        "training": lambda run: seconds(run.summary.train_seconds),
        f"{SAMPLES[task]}/s": lambda run: count(run.summary.images_per_second),
    }


def environment_table(runs: list[ReportedRun], named: Mapping[Path, str]) -> Table:
    """Versions and hardware, of each run that has others a column."""
    found: list[tuple[dict[str, str], list[str]]] = []
    for run in runs:
        environment = _environment(run)
        for known, of in found:
            if known == environment:
                of.append(named[run.files.path])
                break
        else:
            found.append((environment, [named[run.files.path]]))
    keys = dict.fromkeys(key for environment, _ in found for key in environment)
    columns = [Column("what", words=True)]
    columns += [Column("all runs" if len(found) == 1 else _first(of), words=True) for _, of in found]
    rows = [[Cell(key), *(Cell(environment.get(key, NONE)) for environment, _ in found)] for key in keys]
    return Table("environment", "Versions and hardware", columns, rows)


def _environment(run: ReportedRun) -> dict[str, str]:
    summary = run.summary
    found = {**summary.versions, **summary.hardware, "precision": summary.precision, "git": summary.git}
    return {key: NONE if value is None else str(value) for key, value in found.items()}


def commands(runs: list[ReportedRun], named: Mapping[Path, str]) -> list[Command]:
    """What repeats each run, from the overrides that it has kept; the folder is for the reader to choose."""
    return [Command(named[run.files.path], _command(run)) for run in runs]


def _command(run: ReportedRun) -> str | None:
    path = run.files.configuration.with_name("overrides.yaml")
    if not path.is_file():
        return None
    try:
        check_yaml(text := read_text(path, _OVERRIDES))
        words = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    kept = [str(word) for word in words] if isinstance(words, list) else []
    overrides = [word for word in kept if not sets([word], "run_dir") and not sets([word], "resume")]
    return shlex.join(["python", "-m", "ctkd_lightning.run", *overrides])


def _first(of: list[str]) -> str:
    return of[0] if len(of) == 1 else f"{of[0]} and {len(of) - 1} more"


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_OF_A_VALUE else f"{text[: _MOST_OF_A_VALUE - 1]}…"
