"""The page: from runs to one HTML file with its figures beside it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ctkd_lightning._files import user_path, written_whole
from ctkd_lightning._words import printable
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.summary import package_version
from ctkd_lightning.reporting.arms import find_arms
from ctkd_lightning.reporting.drawing import Drawn, draw
from ctkd_lightning.reporting.evaluations import evaluation_table
from ctkd_lightning.reporting.paper import paper_table
from ctkd_lightning.reporting.picture import Picture
from ctkd_lightning.reporting.results import results_table, worth_table
from ctkd_lightning.reporting.runs import Runs, read_runs
from ctkd_lightning.reporting.tables import Table, count
from ctkd_lightning.reporting.what_ran import Command, commands, environment_table, names, runs_table

FIGURES = {
    "temperature": "The temperature",
    "loss": "The distillation loss",
    "surface": "The loss along τ",
    "features": "The students’ features",
    "agreement": "Agreement with the teacher",
    "samples": "Temperatures of the samples",
}
"""Sections of figures, in their order: from a :class:`Picture`'s ``section`` to its heading."""


@dataclass
class Section:
    """A part of the page.

    Attributes:
        name: its anchor.
        title: its heading.
        words: what comes first.
        tables: after them.
        drawn: its figures.
        commands: that repeat its runs.
        notes: a list of lines at its end.
    """

    name: str
    title: str
    words: str = ""
    tables: list[Table] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Page:
    """What the template fills in.

    Attributes:
        title: of the page.
        facts: names and values, at its head.
        sections: in their order.
        version: of the package that made it.
        made: date and time.
    """

    title: str
    facts: list[tuple[str, str]]
    sections: list[Section]
    version: str
    made: str


def write_report(
    folders: Sequence[Path], output: str | Path | None = None, *, overwrite: bool = False, own: bool = False
) -> Path:
    """Read runs, and write their page and figures.

    Args:
        folders: of the runs.
        output: the page; by default ``report.html`` in the folder that holds all the runs.
        overwrite: take the place of a page that is there.
        own: whether this command has itself trained the runs.

    Returns:
        The page's path.

    Raises:
        UserError: no run that counts, a page that is there, or a folder that cannot be written.
    """
    path = _output(folders, output, overwrite)
    runs = read_runs(folders, own=own)
    if not runs.runs:
        first = runs.left_out[0]
        others = f"; likewise {len(runs.left_out) - 1} more" if len(runs.left_out) > 1 else ""
        raise UserError(f"no run to report on: {first.path}: {first.why}{others}")
    from ctkd_lightning.reporting.figures import pictures  # draws and embeds: only once there is something to draw

    missing: list[str] = []
    return write_page(runs, pictures(runs, missing), path, missing)


def write_page(runs: Runs, pictures: Iterable[Picture], path: Path, missing: Sequence[str] = ()) -> Path:
    """Write the page of runs, one or more, and its figures beside it: all of them, or where that fails nothing.

    Args:
        runs: those that count, and those that do not.
        pictures: of the runs.
        path: of the page.
        missing: figures that there are not, each in a line; complete once the pictures are through.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".figures.", dir=path.parent) as folder, written_whole(path) as partial:
            drawn = list(draw(pictures, Path(folder)))
            partial.write_text(render(page(runs, drawn, missing)), encoding="utf-8")
            _move(Path(folder), path.with_name("figures"))
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; make room, or set output to a file in a folder that can "
            "be written"
        ) from error
    return path


def _move(files: Path, folder: Path) -> None:
    """Put files into a folder of the same disk, in the place of those of their names."""
    folder.mkdir(exist_ok=True)
    for file in files.iterdir():
        os.replace(file, folder / file.name)


def render(page: Page) -> str:
    """The page as HTML; what comes from files is text in it, never markup nor what turns writing round."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, finalize=_shown
    )
    return environment.get_template("template.html.j2").render(page=page)


def _shown(value: Any) -> Any:
    return printable(value, lines=True) if type(value) is str else value  # not the template's own markup


def page(runs: Runs, drawn: Iterable[Drawn], missing: Sequence[str] = ()) -> Page:
    """What the page says of runs, one or more."""
    arms = find_arms(runs.runs)
    named = names([run.files.path for run in runs.runs] + [left.path for left in runs.left_out])
    worth = worth_table(arms)
    results = [table for table in (results_table(arms), paper_table(arms)) if table is not None]
    sections = [Section("results-section", "Results", _words_on_results(runs), results)]
    if worth is not None:
        sections.append(Section("worth-section", "Was it worth it?", tables=[worth]))
    sections += _of_figures(drawn)
    missing = list(missing)
    if evaluated := evaluation_table(runs.runs, named, missing):
        sections.append(Section("evaluation", "Evaluation", tables=[evaluated]))
    if missing:
        sections.append(Section("missing", "What is not here", notes=missing))
    sections.append(
        Section(
            "ran",
            "What ran",
            tables=[runs_table(runs.runs, named), environment_table(runs.runs, named)],
            commands=commands(runs.runs, named),
        )
    )
    if runs.left_out:
        notes = [f"{named[left.path]}: {left.why}" for left in runs.left_out]
        sections.append(
            Section("left-out", "Left out", "These folders do not count in any number on this page.", notes=notes)
        )
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    return Page(_title(runs), _facts(runs), sections, package_version("ctkd-lightning") or "", made)


def _of_figures(drawn: Iterable[Drawn]) -> list[Section]:
    by_section: dict[str, list[Drawn]] = defaultdict(list)
    for picture in drawn:
        by_section[picture.picture.section].append(picture)
    order = [name for name in FIGURES if name in by_section] + [name for name in by_section if name not in FIGURES]
    return [Section(name, FIGURES.get(name, name), drawn=by_section[name]) for name in order]


def _title(runs: Runs) -> str:
    pairs = list(dict.fromkeys(run.summary.model for run in runs.runs))
    what = pairs[0] if len(pairs) == 1 else f"{len(pairs)} pairs of networks"
    return f"{what} on {runs.runs[0].summary.data}"


def _facts(runs: Runs) -> list[tuple[str, str]]:
    summaries = [run.summary for run in runs.runs]
    seeds = sorted({summary.seed for summary in summaries})
    facts = [
        ("runs", count(len(summaries))),
        ("seeds", ", ".join(map(str, seeds)) if len(seeds) <= 10 else f"{len(seeds)}, from {seeds[0]} to {seeds[-1]}"),
    ]
    if summaries[0].num_classes:
        facts.append(("classes", count(summaries[0].num_classes)))
    if runs.left_out:
        facts.append(("left out", count(len(runs.left_out))))
    return facts


def _words_on_results(runs: Runs) -> str:
    if len(runs.runs) > 1:
        return ""
    task = runs.runs[0].summary.task if runs.runs else "classification"
    arms = {
        "classification": "temperature=fixed,global",
        "language": "experiment=… temperature=fixed_one,global_tokens",
    }
    told = arms.get(task, "experiment=… temperature=fixed_one,global_near_one")
    return (
        "This is a single run. Means, deviations and differences need several seeds and arms: "
        f"python -m ctkd_lightning.run -m {told} seed=1,2,3"
    )


def _output(folders: Sequence[Path], output: str | Path | None, overwrite: bool) -> Path:
    path = (
        user_path(str(output)) if output is not None else Path(os.path.commonpath(map(os.path.abspath, folders)), _NAME)
    )
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"output must be an HTML file such as {_NAME}, found {output}")
    if path.is_dir():
        raise UserError(f"output={path} is a folder: name a file in it")
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there already: take another output, or replace it with overwrite=true")
    return path


_NAME = "report.html"
