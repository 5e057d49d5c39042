"""Does a detector's temperature matter? Seven ways to train a small Faster R-CNN on digit scenes, on one footing.

    python -m benchmarks.detection [--seeds N] [--arms …]     what the file of results does not hold yet
    python -m benchmarks.detection --table                    what is known, into docs/detectors.md

The settings are those of ``experiment=detection_digits``: 600 scenes, 8 epochs of 75 steps. The teacher is trained
once, on one core for some minutes, and kept as teachers are. A run that the file holds is not repeated: an interrupted
command is started again. Each line is one run, and the table is made of those lines alone.

The protocol, fixed before the first run:

- What counts is the average precision on the 200 test scenes after the last epoch, mAP (over IoU from 0.50 to 0.95) and
  AP50. Nothing is chosen by them; there is no validation.
- All arms of a seed start from the same student and see the same scenes in the same order.
- The detector's own losses have weight 1. Distillation is of the scores of the student's proposals; its weight is 1 or
  3. The learned temperature starts at 1 and stays between 0.5 and 2.5.
- Boxes and attention have the weights of their configurations, 1 and 1000; no other was tried.
- Differences are to the student alone, paired by seed, with Student's interval at 95 %.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, seed_everything

from benchmarks.evidence import QUIET, TemperaturePath, check_sum
from benchmarks.evidence_table import difference_with_interval, environment, mean_with_deviation, put_between
from benchmarks.quiet import hush
from ctkd_lightning import build
from ctkd_lightning.job.summary import describe_environment
from ctkd_lightning.job.tasks import Detection
from ctkd_lightning.job.teacher import ready_teacher
from ctkd_lightning.reporting.statistics import spread

RESULTS = Path(__file__).parent / "results" / "detection.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "detectors.md"
MEASURES = {"map": "mAP %", "ap50": "AP50 %"}
REFERENCE = "alone"
_KD = "method.terms.kd.weight"
_FIXED = ("temperature=fixed", "temperature.tau=1")
_LAYERS = tuple(
    f"{side}_layers={{stage1: backbone.0, stage2: backbone.1, stage3: backbone.2}}" for side in ("student", "teacher")
)
ARMS: Mapping[str, tuple[str, ...]] = {
    REFERENCE: ("method=none",),
    "fixed 1, weight 1": (*_FIXED, f"{_KD}=1"),
    "fixed 1, weight 3": (*_FIXED, f"{_KD}=3"),
    "learned from 1, weight 3": ("temperature=global_near_one", f"{_KD}=3"),
    "learned from 1, weight 1": ("temperature=global_near_one", f"{_KD}=1"),
    "fixed 1, weight 1, boxes": (*_FIXED, f"{_KD}=1", "method=[kd_detection,box_kd]"),
    "fixed 1, weight 1, attention": (*_FIXED, f"{_KD}=1", "method=[kd_detection,at]", *_LAYERS),
}
"""Settings of the command beside ``experiment=detection_digits``."""


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


def train(arm: str, seed: int, options: Sequence[str]) -> dict[str, Any]:
    """Train and test a student: the line of the run."""
    settings = ["experiment=detection_digits", *ARMS[arm], f"seed={seed}", *options]
    cfg = build.config(*QUIET, *settings)
    task = Detection(cfg)
    task.read()
    data = task.data
    teacher, student = build.networks(cfg, data)
    about = describe_environment()
    line: dict[str, Any] = {"study": "detection", "arm": arm, "seed": seed, "start": check_sum(student)}
    ready_teacher(cfg, teacher, data)
    line["teacher"] = _teacher(task, teacher)
    path, learning = TemperaturePath(), task.learning(None if cfg.method.alone else teacher, student)
    callbacks: list[Callback] = [path] if learning.callback is None else [learning.callback, path]
    seed_everything(seed, workers=True, verbose=False)
    trainer = build.trainer(cfg, callbacks=callbacks, limit_val_batches=0, enable_checkpointing=False)
    started = time.perf_counter()
    trainer.fit(learning.module, datamodule=data)
    line["seconds"] = round(time.perf_counter() - started, 1)
    line["tau"] = [round(tau, 4) for tau in path.tau]
    line |= task.measure(student, "test")
    line |= {"settings": [each for each in settings if not each.startswith("run_dir=")]}  # which says nothing of it
    line |= {"date": datetime.now(UTC).date().isoformat()}
    return line | {name: about[name] for name in ("versions", "hardware", "git")}


_tested: dict[str, dict[str, float]] = {}


def _teacher(task: Detection, teacher: Any) -> dict[str, Any]:
    """What tells the teacher from others, and how good it is; tested once."""
    known = check_sum(teacher)
    if known not in _tested:
        _tested[known] = dict(task.measure(teacher, "test"))
    return {"sum": known, **_tested[known]}


def by_arm(lines: Sequence[Mapping[str, Any]], measure: str) -> dict[str, dict[int, float]]:
    """A measure of each arm, by seed."""
    return {arm: {line["seed"]: line[measure] for line in lines if line["arm"] == arm} for arm in ARMS}


def table(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The table of all arms, as Markdown; and how the learned temperature compares with the fixed one."""
    yield "| arm | n | τ at the end | " + " | ".join(f"{name} | difference" for name in MEASURES.values()) + " |"
    yield "| --- " * (3 + 2 * len(MEASURES)) + "|"
    teacher = lines[0]["teacher"]
    yield "| the teacher | 1 | – | " + " | ".join(f"{teacher[measure]:.2f} | –" for measure in MEASURES) + " |"
    measured = {measure: by_arm(lines, measure) for measure in MEASURES}
    for arm in ARMS:
        own = [line for line in lines if line["arm"] == arm]
        if not own:
            continue
        ends = [line["tau"][-1] for line in own if line["tau"]]
        cells = [arm, str(len(own)), f"{spread(ends).mean:.2f}" if ends else "–"]
        for found in measured.values():
            cells.append(mean_with_deviation(found[arm]))
            cells.append("–" if arm == REFERENCE else difference_with_interval(found[arm], found[REFERENCE]))
        yield f"| {' | '.join(cells)} |"
    yield ""
    for weight in (1, 3):
        fixed, learned = f"fixed 1, weight {weight}", f"learned from 1, weight {weight}"
        if all(measured["map"][arm] for arm in (fixed, learned)):
            found = (
                f"{name} {difference_with_interval(measured[key][learned], measured[key][fixed])}"
                for key, name in MEASURES.items()
            )
            yield f"Learned beyond fixed, both with weight {weight}: {', '.join(found)}."


def main() -> None:
    """Do what is not done, and show what is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM", help="some alone")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the command, such as trainer=gpu")
    parser.add_argument("--table", action="store_true", help="run nothing: the table into docs/detectors.md")
    arguments = parser.parse_args()
    if arguments.table:
        lines = read_lines(arguments.results)
        put_between(PAGE, "study: detection", [environment(lines), "", *table(lines), ""])
        print(PAGE)
        return
    hush()
    for seed in range(arguments.seeds):
        for arm in arguments.arms:
            if any((line["arm"], line["seed"]) == (arm, seed) for line in read_lines(arguments.results)):
                continue
            line = train(arm, seed, arguments.set)
            with arguments.results.open("a") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            print(
                f"{arm}, seed {seed}: mAP {line['map']:.2f}, AP50 {line['ap50']:.2f}, {line['seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
