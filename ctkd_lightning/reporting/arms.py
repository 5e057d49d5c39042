"""What is compared: runs that differ in nothing but their seed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from ctkd_lightning.job.measures import MEASURES, Measure
from ctkd_lightning.job.summary import NetworkSummary
from ctkd_lightning.reporting.runs import ReportedRun
from ctkd_lightning.reporting.settings import Settings, apart_from, decisive, differing, within
from ctkd_lightning.reporting.statistics import Difference, paired_difference

_OF_TEMPERATURES = ("temperature", "curriculum")
_OF_TEACHERS = (
    *_OF_TEMPERATURES, "method", "temperature_per_method", "teacher", "model.teacher", "student_layers",
    "teacher_layers",
)  # fmt: skip


@dataclass
class Arm:
    """Runs with the same settings and different seeds.

    Attributes:
        name: method and temperature; where that is not enough to tell it from others of its pair, what differs too.
        pair: of networks.
        settings: that decide the result, without the seed.
        runs: one or more.
    """

    name: str
    pair: str
    settings: Settings
    runs: list[ReportedRun]

    @property
    def measure(self) -> Measure:
        """What its score is."""
        return MEASURES[self.runs[0].summary.task][0]

    @property
    def alone(self) -> bool:
        """Whether the student learns without a teacher."""
        return self.runs[0].summary.teacher is None

    @cached_property
    def score(self) -> dict[int, float]:
        """By seed, the first measure of the task on test data, such as top-1."""
        return self.by_seed(lambda run: run.summary.student.score)

    def by_seed(self, of: Callable[[ReportedRun], float | None]) -> dict[int, float]:
        """A value of each run that has it, by seed; the mean where a seed ran more than once."""
        values = defaultdict(list)
        for run in self.runs:
            if (value := of(run)) is not None:
                values[run.summary.seed].append(value)
        return {seed: fmean(several) for seed, several in sorted(values.items())}


def measure_of(arms: list[Arm]) -> Measure:
    """What the scores are: of one task, since all runs were tested on the same samples."""
    return arms[0].measure if arms else MEASURES["classification"][0]


def find_arms(runs: list[ReportedRun]) -> list[Arm]:
    """The arms of runs, in their order; the student alone comes last."""
    groups: dict[tuple[str, str], list[Arm]] = defaultdict(list)
    for run in runs:
        of_this_name, settings = groups[run.summary.model, run.arm], decisive(run)
        arm = next((arm for arm in of_this_name if arm.settings == settings), None)
        if arm is None:
            of_this_name.append(arm := Arm(run.arm, run.summary.model, settings, []))
        arm.runs.append(run)
    for of_this_name in groups.values():
        keys = differing(arm.settings for arm in of_this_name)
        for arm in of_this_name:
            arm.name = ", ".join([arm.name, *(f"{key}={arm.settings.get(key, '–')}" for key in keys)])
    arms = [arm for of_this_name in groups.values() for arm in of_this_name]
    return sorted(arms, key=lambda arm: arm.alone)


def fixed_reference(arm: Arm, arms: list[Arm]) -> Arm | None:
    """The same with a fixed temperature; the best of them where there are several."""
    return _best(other for other in arms if is_fixed(other) and _same(arm, other, _OF_TEMPERATURES))


def is_fixed(arm: Arm) -> bool:
    """Whether its temperature is a constant."""
    return has_temperature(arm) and arm.runs[0].summary.temperature in ("fixed", "fixed_one")


def has_temperature(arm: Arm) -> bool:
    """Whether its method reads one."""
    return not arm.alone and "temperature" not in arm.runs[0].summary.without_effect


def to_fixed(arm: Arm, arms: list[Arm]) -> Difference | None:
    """Score less that of the fixed temperature; ``None`` where there is none with a seed of this arm."""
    reference = fixed_reference(arm, arms)
    return None if reference is None or reference is arm else paired_difference(arm.score, reference.score)


def alone_arm(arm: Arm, arms: list[Arm]) -> Arm | None:
    """The same student trained by itself, in runs of their own."""
    return _best(other for other in arms if other.alone and _same(arm, other, _OF_TEACHERS))


def alone_score(arm: Arm, arms: list[Arm]) -> dict[int, float]:
    """By seed, the student of this arm trained without a teacher: of runs of their own, or beside this arm's."""
    reference = alone_arm(arm, arms)
    return _of_baseline(arm, lambda network: network.score) | (reference.score if reference else {})


def alone_settings(arm: Arm) -> Settings:
    """Of an arm's settings those that decide its student alone, in runs of its own or beside the arm's."""
    return apart_from(arm.settings, _OF_TEACHERS)


def teacher_settings(arm: Arm) -> Settings:
    """Those that decide its teacher."""
    return within(arm.settings, ("teacher", "model.teacher", "model.teacher_learning_rate", "data"))


def train_seconds(arm: Arm) -> dict[int, float]:
    """By seed, how long the student's training took."""
    return arm.by_seed(lambda run: run.summary.train_seconds)


def alone_seconds(arm: Arm, arms: list[Arm]) -> dict[int, float]:
    """By seed, how long that of the student alone took; of the same as :func:`alone_score`."""
    reference = alone_arm(arm, arms)
    return _of_baseline(arm, lambda network: network.train_seconds) | (train_seconds(reference) if reference else {})


def _of_baseline(arm: Arm, of: Callable[[NetworkSummary], float | None]) -> dict[int, float]:
    """A value of the students alone that were trained beside an arm's runs, by seed."""
    return arm.by_seed(lambda run: of(run.summary.baseline) if run.summary.baseline else None)


def beside(pair: str, arms: list[Arm]) -> dict[int, float]:
    """By seed, the students alone that were trained beside a pair's runs.

    None where the pair has runs of the student alone, or where those beside its arms are not the same for a seed.
    """
    found: dict[int, float] = {}
    for arm in arms:
        if arm.pair != pair:
            continue
        if arm.alone:
            return {}
        own = _of_baseline(arm, lambda network: network.score)
        if any(found.get(seed, score) != score for seed, score in own.items()):
            return {}
        found |= own
    return found


def is_best(arm: Arm, arms: list[Arm]) -> bool:
    """Whether it is better than every other arm of its pair, the student alone too, by intervals without zero."""
    others = [other.score for other in arms if other.pair == arm.pair and other is not arm]
    if alone := beside(arm.pair, arms):
        others.append(alone)
    found = [paired_difference(arm.score, other) for other in others]
    less = arm.measure.less_is_better
    return bool(found) and all(one is not None and (one.below_zero if less else one.above_zero) for one in found)


def _same(arm: Arm, other: Arm, but_for: tuple[str, ...]) -> bool:
    return apart_from(arm.settings, but_for) == apart_from(other.settings, but_for)


def _best(arms: Iterable[Arm]) -> Arm | None:
    def worth(arm: Arm) -> float:
        mean = fmean(arm.score.values()) if arm.score else -math.inf
        return -mean if arm.measure.less_is_better and arm.score else mean

    return max(arms, key=worth, default=None)
