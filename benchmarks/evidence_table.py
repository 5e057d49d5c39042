"""The study's table and figures, from its lines alone."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.evidence_arms import ARMS, REFERENCE
from ctkd_lightning.reporting.statistics import Difference, paired_difference, spread
from ctkd_lightning.reporting.tables import signed

MEASURES = {"top1": "top-1 %", "nll": "NLL", "ece": "ECE %", "agreement": "agreement %"}
"""What a run is judged by: the column's name of each."""

LEVEL = 0.05
FEWEST = 3
"""Seeds from which a p-value says something: of two, any differences that are nearly the same have a small one."""


@dataclass(frozen=True)
class Run:
    """One line.

    Attributes:
        stage: ``"1"``, ``"2"`` or ``"digits"``.
        arm: its name.
        seed: of the student's start, and of order and augmentation.
        error: why it ended before its last epoch, and has no numbers; mostly none.
        top1: test accuracy after the last epoch, percent.
        nll: negative log-likelihood, nats.
        ece: expected calibration error, 0 to 1.
        agreement: with the teacher's guesses, percent.
        tau: at the end of each epoch; empty where nothing is softened.
        seconds: of the training.
        start: check sum of the student's first weights.
        teacher: of the teacher's; not in early lines.
        settings: of the command.
    """

    stage: str
    arm: str
    seed: int
    tau: tuple[float, ...]
    seconds: float
    start: str
    settings: tuple[str, ...] = ()
    teacher: str = ""
    error: str | None = None
    top1: float = math.nan
    nll: float = math.nan
    ece: float = math.nan
    agreement: float = math.nan


def read_runs(path: Path) -> list[Run]:
    """The runs of a file of results; none where there is no file.

    Raises:
        SystemExit: arms of one seed that did not start alike, which cannot be paired.
    """
    if not path.is_file():
        return []
    known = [field.name for field in fields(Run)]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    runs = [Run(**{name: line[name] for name in known if name in line} | {"tau": tuple(line["tau"])}) for line in lines]
    starts, teachers = defaultdict(set), defaultdict(set)
    for run in runs:
        starts[run.stage, run.seed].add(run.start)
        teachers[run.stage] |= {run.teacher} - {""}
    for stage, found in teachers.items():
        if len(found) > 1:
            raise SystemExit(f"{path}: the runs of stage {stage} have different teachers")
    for (stage, seed), found in starts.items():
        if len(found) > 1:
            raise SystemExit(f"{path}: the arms of stage {stage}, seed {seed} start from different students")
    return runs


def by_arm(runs: Iterable[Run], measure: str) -> dict[str, dict[int, float]]:
    """A measure of each arm, by seed, of the runs that came to their end; calibration in percent."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for run in runs:
        if run.error is not None:
            continue
        value = getattr(run, measure) * (100 if measure == "ece" else 1)
        found[run.arm][run.seed] = round(value, 4)  # equal accuracies are equal, though they came in float32
    return {arm: found[arm] for arm in ARMS if arm in found}


def mean_of(runs: Iterable[Run], measure: str) -> dict[str, float]:
    """The mean over seeds of each arm."""
    return {arm: spread(list(values.values())).mean for arm, values in by_arm(runs, measure).items()}


def holm(p_values: Mapping[str, float], family: int | None = None) -> dict[str, float]:
    """p-values adjusted for all comparisons (Holm 1979): each times those not smaller, and never falling.

    Args:
        p_values: of each.
        family: how many comparisons there are, with those that have no p-value yet; as many as p-values by default.

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
        {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    count = len(p_values) if family is None else family
    found, least = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        least = min(max(least, (count - place) * p_values[name]), 1.0)
        found[name] = least
    return found


def p_values(measured: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Of each arm's difference to the reference, paired by seed; none of fewer than three seeds."""
    reference = measured[REFERENCE]
    found = {}
    for arm, values in measured.items():
        if arm == REFERENCE:
            continue
        seeds = sorted(values.keys() & reference.keys())
        difference = paired_difference(values, reference)
        if difference is not None and difference.interval is not None and difference.n >= FEWEST:
            found[arm] = float(stats.ttest_rel([values[s] for s in seeds], [reference[s] for s in seeds]).pvalue)
    return found


def table(runs: Sequence[Run]) -> Iterator[str]:
    """The lines of a stage's table, as Markdown."""
    measured = {measure: by_arm(runs, measure) for measure in MEASURES}
    adjusted = {measure: holm(p_values(measured[measure]), len(measured[measure]) - 1) for measure in MEASURES}
    stopped = {run.arm for run in runs if run.error is not None}
    ends = defaultdict(list)
    for run in runs:
        ends[run.arm] += run.tau[-1:]
    yield "| arm | n | τ at the end | top-1 % | difference | " + " | ".join(list(MEASURES.values())[1:]) + " |"
    yield "| --- " * (len(MEASURES) + 4) + "|"
    for arm, values in measured["top1"].items():
        own = spread(list(values.values()))
        tau = f"{spread(ends[arm]).mean:.2f}" if ends[arm] else "–"
        cells = [
            arm,
            str(own.n),
            tau,
            mean_with_deviation(values),
            "–" if arm in stopped else _difference(arm, measured["top1"], adjusted["top1"]),
        ]
        for measure in list(MEASURES)[1:]:
            mean = spread(list(measured[measure][arm].values())).mean
            star = "*" if adjusted[measure].get(arm, 1.0) < LEVEL else ""
            cells.append(f"{mean:.3f}{star}" if measure == "nll" else f"{mean:.1f}{star}")
        yield f"| {' | '.join(cells)} |"
    for run in runs:
        if run.error is not None:
            yield f"| {run.arm}, seed {run.seed} | – | – | stopped: {run.error} |" + " – |" * (len(MEASURES))


def mean_with_deviation(values: Mapping[int, float], digits: int = 2) -> str:
    """Of several seeds, with so many decimals.

    Example:
        >>> mean_with_deviation({1: 90.0, 2: 92.0})
        '91.00 ± 1.41'
    """
    own = spread(list(values.values()))
    return f"{own.mean:.{digits}f}" + ("" if own.deviation is None else f" ± {own.deviation:.{digits}f}")


def difference_with_interval(first: Mapping[int, float], second: Mapping[int, float], digits: int = 2) -> str:
    """First minus second, paired by seed, and half the width of its interval at 95 %."""
    found: Difference | None = paired_difference(first, second)
    if found is None:
        return "?"
    if found.interval is None:
        return signed(found.mean, digits)
    return f"{signed(found.mean, digits)} ± {(found.interval[1] - found.interval[0]) / 2:.{digits}f}"


def _difference(arm: str, measured: Mapping[str, Mapping[int, float]], adjusted: Mapping[str, float]) -> str:
    if arm == REFERENCE:
        return "–"
    star = "*" if adjusted.get(arm, 1.0) < LEVEL else ""
    return difference_with_interval(measured[arm], measured[REFERENCE]) + star


def draw_differences(runs: Sequence[Run]) -> Figure:
    """Each arm's difference to the reference, with its interval where it has several seeds."""
    measured = by_arm(runs, "top1")
    found = {
        arm: paired_difference(values, measured[REFERENCE]) for arm, values in measured.items() if arm != REFERENCE
    }
    shown = sorted(((arm, d) for arm, d in found.items() if d is not None), key=lambda pair: pair[1].mean)
    figure = Figure(figsize=(7, 0.26 * len(shown) + 1), layout="constrained")
    axes = figure.subplots()
    for place, (_, difference) in enumerate(shown):
        if difference.interval is not None:
            axes.plot(difference.interval, (place, place), color="#4477aa", linewidth=2, solid_capstyle="butt")
        axes.plot(difference.mean, place, "o", color="#222222", markersize=4)
    axes.axvline(0, color="#888888", linewidth=1)
    axes.set_yticks(range(len(shown)), [arm for arm, _ in shown])
    counts = sorted({difference.n for _, difference in shown})
    n = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "0"
    axes.set_xlabel(f"test top-1 beyond {REFERENCE}, points; {'95 %, ' if n != '1' else ''}n = {n}")
    if 2 in counts:  # their intervals, of one degree of freedom, would hide all else
        axes.set_xlim(min(-1.0, shown[0][1].mean) - 3, max(1.0, shown[-1][1].mean) + 3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    return figure


def draw_paths(runs: Sequence[Run]) -> Figure:
    """τ over the training, of the first seed, all arms in which it moves on one axis."""
    first = min(run.seed for run in runs)
    shown = [run for run in runs if run.seed == first and len(run.tau) > 1 and max(run.tau) > min(run.tau) + 0.01]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    styles = ("-", "--", ":")
    for place, run in enumerate(sorted(shown, key=lambda run: -run.tau[-1])):
        epochs = range(1, len(run.tau) + 1)
        axes.plot(epochs, run.tau, styles[place // 10 % 3], color=f"C{place % 10}", label=run.arm)
    axes.set_yscale("log")
    axes.set_yticks([0.5, 1, 2, 4, 8, 16], ["0.5", "1", "2", "4", "8", "16"])
    axes.minorticks_off()
    axes.set_xlabel("epoch")
    axes.set_ylabel("τ, mean over samples or classes")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd")
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    return figure


def about(path: Path, stage: str) -> str:
    """When, where and with what the runs of a stage were made, in a sentence."""
    return environment([line for line in map(json.loads, path.read_text().splitlines()) if line["stage"] == stage])


def environment(lines: Sequence[Mapping[str, Any]]) -> str:
    """When, where and with what runs were made, in a sentence."""
    dates = sorted({line["date"] for line in lines})
    hardware = sorted({", ".join(map(str, line["hardware"].values())) for line in lines})
    versions = sorted({f"torch {line['versions']['torch']}" for line in lines})
    seeds = sorted({line["seed"] for line in lines})
    of = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    return (
        f"{len(lines)} runs, {of}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}; "
        f"{'; '.join(hardware)} cores; {', '.join(versions)}."
    )


def report(results: Path, page: Path) -> None:
    """Write each stage's table into the page, between ``<!-- stage: NAME -->`` and ``<!-- end -->``, and its figures.

    Args:
        results: the file of lines.
        page: Markdown; the figures go into ``images`` beside it.
    """
    runs = read_runs(results)
    for stage in sorted({run.stage for run in runs}):
        own = [run for run in runs if run.stage == stage]
        if not any(run.arm == REFERENCE and run.error is None for run in own):
            continue
        lines = [about(results, stage), "", *table(own), ""]
        for name, draw in (("differences", draw_differences), ("paths", draw_paths)):
            path = page.parent / "images" / f"temperatures_{stage}_{name}.svg"
            with matplotlib.rc_context({"svg.hashsalt": stage}):  # equal figures are equal files
                draw(own).savefig(path, metadata={"Date": None})
            lines += [f"![{draw.__doc__}](images/{path.name})", ""]
        put_between(page, f"stage: {stage}", lines)


def put_between(page: Path, name: str, lines: Sequence[str]) -> None:
    """Write lines into a page, between ``<!-- NAME -->`` and ``<!-- end -->``.

    Raises:
        SystemExit: a page without that place.
    """
    start = f"<!-- {name} -->"
    found, count = re.subn(
        f"({re.escape(start)}\n).*?(<!-- end -->)",
        lambda match: match[1] + "\n" + "\n".join(lines) + match[2],
        page.read_text(),
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{page} must hold {start} and <!-- end --> once")
    page.write_text(found)
