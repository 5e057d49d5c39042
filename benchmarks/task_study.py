"""Several ways to train one student, on one footing: what the studies of detectors and of tokens share.

Each line of a study's results is one run of the command's own configuration, and the table is made of those lines
alone. A run that the file holds is not repeated: an interrupted command is started again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch import Callback, seed_everything
from torch import nn

from benchmarks.evidence import QUIET, TemperaturePath, check_sum
from benchmarks.evidence_table import difference_with_interval, environment, mean_with_deviation, put_between
from benchmarks.quiet import hush
from ctkd_lightning import build
from ctkd_lightning.job.measures import Measure
from ctkd_lightning.job.summary import describe_environment
from ctkd_lightning.job.tasks import Task, task_of
from ctkd_lightning.job.teacher import cache_folder, ready_teacher
from ctkd_lightning.reporting.statistics import spread

ROOT = Path(__file__).parents[1]
_OF_THE_PLACE = ("run_dir=", "data.cache_dir=", "teacher.checkpoint=", "teacher.cache_dir=")


@dataclass(frozen=True)
class TaskStudy:
    """The arms of a study.

    Attributes:
        name: of the file of results and of the place in the page.
        experiment: of the command.
        arms: its settings beside that.
        reference: the arm to which differences are.
        compared: pairs of arms, of which the first less the second is told below the table.
        measures: of the student on test data, that the table has.
        page: the document.
        first_seed: from which seeds count.
    """

    name: str
    experiment: str
    arms: Mapping[str, tuple[str, ...]]
    reference: str
    compared: tuple[tuple[str, str], ...]
    measures: tuple[Measure, ...]
    page: Path
    first_seed: int = 0

    @property
    def results(self) -> Path:
        """The file of lines."""
        return ROOT / "benchmarks" / "results" / f"{self.name}.jsonl"

    def train(self, arm: str, seed: int, options: Sequence[str]) -> dict[str, Any]:
        """Train and test a student: the line of the run."""
        settings = [f"experiment={self.experiment}", *self.arms[arm], f"seed={seed}", *options]
        cfg = build.config(*QUIET, *settings)
        task, about = task_of(cfg), describe_environment()
        task.read()
        teacher, student = build.networks(cfg, task.data)
        line: dict[str, Any] = {"study": self.name, "arm": arm, "seed": seed, "start": check_sum(student)}
        ready_teacher(cfg, teacher, task.data)
        line["teacher"] = _teacher(task, teacher)
        learning = task.learning(None if cfg.method.alone else teacher, student)
        path = TemperaturePath()
        callbacks: list[Callback] = [path]
        if not cfg.method.alone:
            callbacks = [learning.callback or instantiate(cfg.callbacks.curriculum, _convert_="all"), path]
        if cfg.teacher_cache != "off":
            task.cache_teacher(learning, cache_folder(cfg), str(build.precision(cfg)))
        seed_everything(seed, workers=True, verbose=False)
        trainer = build.trainer(cfg, callbacks=callbacks, limit_val_batches=0, enable_checkpointing=False)
        started = time.perf_counter()
        trainer.fit(learning.module, datamodule=task.data)
        line["seconds"] = round(time.perf_counter() - started, 1)
        line["tau"] = [round(tau, 4) for tau in path.tau]
        line |= task.measure(student, "test")
        line |= {"settings": [each for each in settings if not each.startswith(_OF_THE_PLACE)]}
        line |= {"date": datetime.now(UTC).date().isoformat()}
        return line | {name: about[name] for name in ("versions", "hardware", "git")}

    def table(self, lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """The table of all arms, as Markdown; and how pairs of arms compare."""
        titles = " | ".join(f"{measure.title} | difference" for measure in self.measures)
        yield f"| arm | n | τ at the end | {titles} |"
        yield "| --- " * (3 + 2 * len(self.measures)) + "|"
        teacher = lines[0]["teacher"]
        own = " | ".join(f"{teacher[measure.name]:.{measure.digits}f} | –" for measure in self.measures)
        yield f"| the teacher | 1 | – | {own} |"
        measured = {measure: self.by_arm(lines, measure.name) for measure in self.measures}
        for arm in self.arms:
            runs = [line for line in lines if line["arm"] == arm]
            if not runs:
                continue
            ends = [line["tau"][-1] for line in runs if line["tau"]]
            cells = [arm, str(len(runs)), f"{spread(ends).mean:.2f}" if ends else "–"]
            for measure, found in measured.items():
                cells.append(mean_with_deviation(found[arm], measure.digits))
                other = found[self.reference]
                cells.append(
                    "–" if arm == self.reference else difference_with_interval(found[arm], other, measure.digits)
                )
            yield f"| {' | '.join(cells)} |"
        for arm, other in self.compared:
            differences = [
                f"{measure.title} {difference_with_interval(found[arm], found[other], measure.digits)}"
                for measure, found in measured.items()
                if found[arm] and found[other]
            ]
            if differences:
                yield ""
                yield f"`{arm}` less `{other}`: {', '.join(differences)}."

    def by_arm(self, lines: Sequence[Mapping[str, Any]], measure: str) -> dict[str, dict[int, float]]:
        """A measure of each arm, by seed."""
        return {arm: {line["seed"]: line[measure] for line in lines if line["arm"] == arm} for arm in self.arms}

    def main(self, description: str | None) -> None:
        """Do what is not done, or show what is known."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        arms = list(self.arms)
        parser.add_argument("--seeds", type=int, default=5, help=f"how many, from {self.first_seed}")
        parser.add_argument("--arms", nargs="+", choices=arms, default=arms, metavar="ARM", help="some alone")
        parser.add_argument("--results", type=Path, default=self.results)
        parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the command: trainer=gpu")
        parser.add_argument("--table", action="store_true", help=f"run nothing: the table into docs/{self.page.name}")
        arguments = parser.parse_args()
        if arguments.table:
            lines = read_lines(arguments.results)
            if not lines:
                raise SystemExit(f"no runs in {arguments.results}: run the study first, without --table")
            put_between(self.page, f"study: {self.name}", [environment(lines), "", *self.table(lines), ""])
            print(self.page)
            return
        hush("ctkd_lightning")
        for seed in range(self.first_seed, self.first_seed + arguments.seeds):
            for arm in arguments.arms:
                if any((line["arm"], line["seed"]) == (arm, seed) for line in read_lines(arguments.results)):
                    continue
                line = self.train(arm, seed, arguments.set)
                with arguments.results.open("a") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                found = ", ".join(f"{m.title} {line[m.name]:.{m.digits}f}" for m in self.measures)
                print(f"{arm}, seed {seed}: {found}, {line['seconds']:.0f} s", flush=True)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The runs of a file of results; none where there is no file.

    Raises:
        SystemExit: arms of one seed that did not start alike, or teachers that differ: these cannot be paired.
    """
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    starts = defaultdict(set)
    for line in lines:
        starts[line["seed"]].add(line["start"])
    if any(len(found) > 1 for found in starts.values()):
        raise SystemExit(f"{path}: the arms of a seed start from different students")
    if len({line["teacher"]["sum"] for line in lines}) > 1:
        raise SystemExit(f"{path}: the runs have different teachers")
    return lines


_tested: dict[str, dict[str, float]] = {}


def _teacher(task: Task, teacher: nn.Module) -> dict[str, Any]:
    """What tells the teacher from others, and how good it is; tested once."""
    known = check_sum(teacher)
    if known not in _tested:
        _tested[known] = dict(task.measure(teacher, "test"))
    return {"sum": known, **_tested[known]}
