"""The runs of a page as a figure compares them: arm by arm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.outputs import TestOutputs
from ctkd_lightning.job.temperatures import SampleTemperatures
from ctkd_lightning.reporting.figures._canvas import ALONE_COLOUR, ARM_COLOURS, ARM_LINES
from ctkd_lightning.reporting.figures._words import counted
from ctkd_lightning.reporting.runs import ALONE, ReportedRun, Runs

MOST_ARMS = len(ARM_COLOURS) * len(ARM_LINES)
MOST_OUTPUTS = 5
"""Runs of an arm whose outputs are looked at."""

BOTH = ("teacher", "student")
ONE_FOR_ALL = "no run has a temperature for each sample: train with temperature=instance"
NO_OUTPUTS = "no run has kept what its networks gave for the test samples: run with keep_outputs=true"


class Missing(Exception):
    """A figure cannot be drawn: what its runs lack, and what to do."""


@dataclass
class Arm:
    """Runs that differ in their seeds.

    Attributes:
        label: method and temperature; the pair of networks too, where there are several.
        colour: in all figures.
        line: its style, likewise.
        alone: whether these are students without a teacher.
        runs: all of them.
    """

    label: str
    colour: str
    line: str
    alone: bool
    runs: list[ReportedRun] = field(default_factory=list)

    def outputs(self, *roles: str) -> Iterator[tuple[ReportedRun, TestOutputs]]:
        """Outputs of the arm's first runs, one after the other: those of all need not fit into the memory.

        Args:
            *roles: networks that they must have. Outputs without samples are left out.
        """
        for run in self.runs[:MOST_OUTPUTS]:
            try:
                outputs = run.outputs
            except UserError:  # named on its own
                continue
            if outputs is not None and len(outputs.target) and all(role in outputs.networks for role in roles):
                yield run, outputs


@dataclass
class Comparison:
    """Arms in the order in which the runs came.

    Attributes:
        arms: at most :data:`MOST_ARMS`.
        left_out: arms beyond.
        several_models: whether the runs are of several pairs of networks.
    """

    arms: list[Arm]
    left_out: int
    several_models: bool

    @property
    def distilled(self) -> list[Arm]:
        """Arms that have a teacher."""
        return [arm for arm in self.arms if not arm.alone]

    def caption(self, text: str, drawn: Sequence[Arm], candidates: Sequence[Arm] | None = None) -> str:
        """A caption that tells of the arms that are not drawn.

        Args:
            text: the caption without them.
            drawn: arms of the figure.
            candidates: arms that it could have drawn, where there is room for fewer; else those drawn.
        """
        beyond = len(candidates or drawn) - len(drawn) + self.left_out
        return f"{text} {counted(beyond, 'more arm is', 'more arms are')} not drawn." if beyond else text


def compare(runs: Runs) -> Comparison:
    """The arms of runs, each with a colour."""
    several = len({run.summary.model for run in runs.runs}) > 1
    arms: dict[str, Arm] = {}
    for run in runs.runs:
        label = f"{run.arm}, {run.summary.model}" if several else run.arm
        if label not in arms:
            alone = run.arm == ALONE
            place = sum(not arm.alone for arm in arms.values()) % MOST_ARMS
            colour = ALONE_COLOUR if alone else ARM_COLOURS[place % len(ARM_COLOURS)]
            line = "-." if alone else ARM_LINES[place // len(ARM_COLOURS)]
            arms[label] = Arm(label, colour, line, alone)
        arms[label].runs.append(run)
    found = list(arms.values())
    return Comparison(found[:MOST_ARMS], max(0, len(found) - MOST_ARMS), several)


def damaged(runs: Runs) -> Iterator[str]:
    """What is wrong with the runs' files that figures read, a line each."""
    for run in runs.runs:
        for read in (lambda run: run.outputs, lambda run: SampleTemperatures.read(run.files)):
            try:
                read(run)
            except UserError as error:
                yield str(error)


def outputs_note(arms: Sequence[Arm]) -> str:
    """How many runs' outputs an arm's mean is over, as a sentence; empty where each arm has one run."""
    mean = over_runs(arms, MOST_OUTPUTS)
    if not mean:
        return ""
    sampled = f", the first {MOST_OUTPUTS} of an arm" if any(len(arm.runs) > MOST_OUTPUTS for arm in arms) else ""
    return f" {mean}{sampled}; ± is the standard deviation between them."


def over_runs(arms: Sequence[Arm], most: int | None = None) -> str:
    """How many runs an arm's mean is over: ``"Mean over 3 runs"``; empty where each arm has one."""
    sizes = sorted({min(len(arm.runs), most or len(arm.runs)) for arm in arms})
    if sizes == [1]:
        return ""
    return f"Mean over {sizes[0]} runs" if len(sizes) == 1 else f"Mean over {sizes[0]} to {sizes[-1]} runs an arm"
