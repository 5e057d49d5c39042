"""The results table: methods and temperatures over pairs of networks; and what the distillation was worth."""

from __future__ import annotations

from statistics import fmean

from ctkd_lightning.job.measures import Measure
from ctkd_lightning.reporting.arms import (
    Arm,
    alone_score,
    alone_seconds,
    beside,
    fixed_reference,
    has_temperature,
    is_best,
    measure_of,
    to_fixed,
    train_seconds,
)
from ctkd_lightning.reporting.runs import ALONE
from ctkd_lightning.reporting.statistics import paired_difference
from ctkd_lightning.reporting.tables import (
    NONE,
    Cell,
    Column,
    Table,
    count,
    difference,
    mean_and_deviation,
    seconds,
)


def results_table(arms: list[Arm]) -> Table:
    """A row for each method with its temperature, of each pair the accuracy and its difference to the fixed one."""
    pairs, measure = list(dict.fromkeys(arm.pair for arm in arms)), measure_of(arms)
    columns, rows = [Column("method and temperature", words=True)], []
    for _ in pairs:
        columns += [
            Column(f"student, test {measure.title}"),
            Column("seeds"),
            Column(f"difference to fixed τ, {measure.points}"),
        ]
    for name in dict.fromkeys(arm.name for arm in arms):
        row = [Cell(name)]
        for pair in pairs:
            arm = next((arm for arm in arms if (arm.name, arm.pair) == (name, pair)), None)
            row += _result(arm, arms) if arm else [Cell(NONE)] * 3
        rows.append(row)
    alone = [beside(pair, arms) for pair in pairs]
    if any(alone):
        cells = [_alone(by_seed, measure.digits) for by_seed in alone]
        rows.append([Cell(ALONE), *(cell for three in cells for cell in three)])
    words = f"{measure.long} on the test data after the last epoch"
    if all(len(arm.score) <= 1 for arm in arms):
        words += ", of one seed each, which tells nothing of the spread between seeds."
    else:
        better = "below" if measure.less_is_better else "above"
        words += (
            ": mean ± standard deviation over seeds. The difference to the same method at a fixed temperature "
            "(where there are several, the best of them) is the mean over the seeds that both have, with the 95 % "
            "interval of Student’s t for paired samples. Runs of one seed count as their mean. Bold: the best of its "
            f"pair, where the 95 % intervals of its differences to all other rows lie {better} zero; they are not "
            "adjusted for the number of comparisons."
        )
    groups = [("", 1), *((pair, 3) for pair in pairs)]
    return Table("results", "Students by method and temperature", columns, rows, groups, words)


def _alone(by_seed: dict[int, float], digits: int) -> list[Cell]:
    """Of the students alone beside the runs of a pair."""
    if not by_seed:
        return [Cell(NONE)] * 3
    return [Cell(mean_and_deviation(by_seed.values(), digits)), Cell(str(len(by_seed))), Cell(NONE)]


def _result(arm: Arm, arms: list[Arm]) -> list[Cell]:
    repeated = len(arm.runs) - len(arm.score)
    note = f"{len(arm.runs)} runs" if repeated > 0 else ""
    return [
        Cell(mean_and_deviation(arm.score.values(), arm.measure.digits), best=is_best(arm, arms)),
        Cell(str(len(arm.score)), note),
        _against_fixed(arm, arms),
    ]


def _against_fixed(arm: Arm, arms: list[Arm]) -> Cell:
    if not has_temperature(arm):
        return Cell(NONE, "" if arm.alone else "no temperature")
    reference = fixed_reference(arm, arms)
    if reference is arm:
        return Cell(NONE, "it is the fixed one")
    if reference is None:
        return Cell(NONE, "no run of it with temperature=fixed")
    found = to_fixed(arm, arms)
    return difference(found, arm.measure.digits) if found else Cell(NONE, "no run with temperature=fixed has its seeds")


def worth_table(arms: list[Arm]) -> Table | None:
    """The student alone, distilled, and its teacher; ``None`` where nothing was distilled."""
    rows = [_worth(arm, arms) for arm in arms if not arm.alone]
    if not rows:
        return None
    measure = measure_of(arms)
    columns = [
        Column("what", words=True),
        Column(f"student alone, {measure.title}"),
        Column(f"student distilled, {measure.title}"),
        Column(f"teacher, {measure.title}"),
        Column(f"{'difference to' if measure.less_is_better else 'gained over'} alone, {measure.points}"),
        Column("share of the gap closed"),
        Column("training, alone"),
        Column("training, distilled"),
        Column("training, teacher"),
        Column("parameters, student"),
        Column("parameters, teacher"),
    ]
    words = (
        f"Test {measure.label} over the seeds that student alone and distilled share: mean ± standard deviation, the "
        f"{'difference' if measure.less_is_better else 'gain'} with its 95 % interval (paired, "
        "Student’s t). The share of the gap is (distilled − alone) / (teacher − alone), of the means. "
        "Training is the student’s, the mean over seeds; the teacher’s is its own, by itself."
    )
    if all(row[1].text == NONE for row in rows):
        words = (
            "There is no student alone to compare with: with_baseline=true trains it beside a run, and method=none "
            "by itself, with the same seeds and settings. Training is the student’s, the mean over seeds; the "
            "teacher’s is its own, by itself."
        )
    return Table("worth", "Student alone, student distilled, teacher", columns, rows, words=words)


def _worth(arm: Arm, arms: list[Arm]) -> list[Cell]:
    distilled, alone = arm.score, alone_score(arm, arms)
    teacher = arm.by_seed(lambda run: run.summary.teacher.score if run.summary.teacher else None)
    gained = paired_difference(distilled, alone)
    if gained:
        shared = distilled.keys() & alone.keys()
        distilled, alone, teacher = (
            {seed: of[seed] for seed in of.keys() & shared} for of in (distilled, alone, teacher)
        )
    summary, digits = arm.runs[0].summary, arm.measure.digits
    several = list(teacher.values())
    small, large = (network.parameters if network else None for network in (summary.student, summary.teacher))
    return [
        Cell(arm.name, arm.pair if len({other.pair for other in arms}) > 1 else ""),
        Cell(mean_and_deviation(alone.values(), digits)) if gained else Cell(NONE, "none of its seeds"),
        Cell(mean_and_deviation(distilled.values(), digits)),
        Cell(mean_and_deviation(several if len({*several}) > 1 else several[:1], digits)),
        difference(gained, digits) if gained else Cell(NONE),
        _share_of_gap(alone, distilled, teacher, arm.measure) if gained else Cell(NONE),
        _seconds(alone_seconds(arm, arms)),
        _seconds(train_seconds(arm)),
        _seconds(arm.by_seed(lambda run: run.summary.teacher.train_seconds if run.summary.teacher else None)),
        Cell(count(small), f"{small / large:.0%} of teacher" if small and large else ""),
        Cell(count(large)),
    ]


def _share_of_gap(
    alone: dict[int, float], distilled: dict[int, float], teacher: dict[int, float], measure: Measure
) -> Cell:
    if not teacher:
        return Cell(NONE)
    low, value, high = (fmean(of.values()) for of in (alone, distilled, teacher))
    if high == low or (high < low) != measure.less_is_better:
        return Cell(NONE, "the teacher is not better than the student alone")
    return Cell(f"{(value - low) / (high - low):.0%}".replace("-", "−"))


def _seconds(by_seed: dict[int, float]) -> Cell:
    return Cell(seconds(fmean(by_seed.values())) if by_seed else NONE)
