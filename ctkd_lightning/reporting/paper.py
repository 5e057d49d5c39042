"""Several methods, each at a fixed and at a learned temperature, as papers print them."""

from __future__ import annotations

from statistics import fmean

from ctkd_lightning.reporting.arms import (
    Arm,
    alone_score,
    fixed_reference,
    has_temperature,
    is_fixed,
    measure_of,
    to_fixed,
)
from ctkd_lightning.reporting.tables import NONE, Cell, Column, Table, mean_and_deviation, number, signed


def paper_table(arms: list[Arm]) -> Table | None:
    """Teacher, student, and a pair of rows for each method: at the fixed temperature, and with another in its place.

    Returns:
        ``None`` where no method has both, or a single method of a single pair has, of which the results say it all.
    """
    pairs = list(dict.fromkeys(arm.pair for arm in arms))
    rows: dict[str, dict[str, list[Arm]]] = {}  # by method its other temperatures by name, an arm a pair
    for arm in arms:
        another = has_temperature(arm) and not is_fixed(arm)
        if another and fixed_reference(arm, arms) is not None:
            other = arm.name.removeprefix(f"{_method(arm)}, ")
            rows.setdefault(_method(arm), {}).setdefault(other, []).append(arm)
    if not rows or (len(rows) == 1 and len(pairs) == 1):
        return None
    table = [
        [Cell("teacher"), *(_teacher(pair, arms) for pair in pairs)],
        [Cell("student alone"), *(_alone(pair, arms) for pair in pairs)],
    ]
    for method, others in rows.items():
        fixed = [fixed_reference(arm, arms) for arm in arms if has_temperature(arm) and _method(arm) == method]
        table.append([Cell(method), *(_accuracy(_of_pair(fixed, pair)) for pair in pairs)])
        for other, several in others.items():
            of_pairs = [_of_pair(several, pair) for pair in pairs]
            table.append([Cell(f"+ {other}"), *(_accuracy(arm, arms) for arm in of_pairs)])
    measure = measure_of(arms)
    words = (
        f"The same numbers as papers print them: test {measure.label} after the last epoch, mean ± standard "
        f"deviation over seeds; below it the {measure.points} over the same method at a fixed temperature (of "
        "several the best of them), paired by seed. Intervals stand in the table of the results."
    )
    columns = [Column("", words=True), *(Column(pair) for pair in pairs)]
    return Table("paper", "Methods with and without another temperature", columns, table, words=words)


def _method(arm: Arm) -> str:
    return arm.runs[0].summary.method


def _of_pair(arms: list[Arm | None] | list[Arm], pair: str) -> Arm | None:
    return next((arm for arm in arms if arm is not None and arm.pair == pair), None)


def _accuracy(arm: Arm | None, arms: list[Arm] | None = None) -> Cell:
    if arm is None:
        return Cell(NONE)
    difference, digits = to_fixed(arm, arms) if arms is not None else None, arm.measure.digits
    return Cell(mean_and_deviation(arm.score.values(), digits), signed(difference.mean, digits) if difference else "")


def _teacher(pair: str, arms: list[Arm]) -> Cell:
    """The teachers' mean accuracy."""
    found = {
        run.summary.teacher.score
        for arm in arms
        if arm.pair == pair
        for run in arm.runs
        if run.summary.teacher is not None and run.summary.teacher.score is not None
    }
    return Cell(number(fmean(found), digits=measure_of(arms).digits) if found else NONE)


def _alone(pair: str, arms: list[Arm]) -> Cell:
    """The student without its teacher, of runs of their own or beside those of any arm."""
    by_seed = {seed: score for arm in arms if arm.pair == pair for seed, score in alone_score(arm, arms).items()}
    return Cell(mean_and_deviation(by_seed.values(), measure_of(arms).digits))
