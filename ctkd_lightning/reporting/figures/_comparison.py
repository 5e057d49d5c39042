"""The runs of a page as a figure compares them: arm by arm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ctkd_lightning._words import counted
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.outputs import TestOutputs
from ctkd_lightning.job.temperatures import SampleTemperatures
from ctkd_lightning.reporting.arms import Arm, find_arms
from ctkd_lightning.reporting.figures._canvas import ALONE_COLOUR, ARM_COLOURS, ARM_LINES
from ctkd_lightning.reporting.runs import ReportedRun, Runs

MOST_ARMS = len(ARM_COLOURS) * len(ARM_LINES)
MOST_OUTPUTS = 5
"""Runs of an arm whose outputs are looked at."""

BOTH = ("teacher", "student")
NO_OUTPUTS = "no run has kept what its networks gave for the test samples: run with keep_outputs=true"


class Missing(Exception):
    """A figure cannot be drawn: what its runs lack, and what to do."""


@dataclass
class DrawnArm(Arm):
    """An arm of the tables, and how all figures draw it.

    Attributes:
        label: its name; the pair of networks too, where there are several.
        colour: of its lines and points.
        line: their style.
    """

    label: str
    colour: str
    line: str

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
    """Arms in the order of the tables.

    Attributes:
        arms: at most :data:`MOST_ARMS`.
        left_out: arms beyond.
        several_models: whether the runs are of several pairs of networks.
    """

    arms: list[DrawnArm]
    left_out: int
    several_models: bool

    @property
    def distilled(self) -> list[DrawnArm]:
        """Arms that have a teacher."""
        return [arm for arm in self.arms if not arm.alone]

    def caption(self, text: str, drawn: Sequence[DrawnArm], candidates: Sequence[DrawnArm] | None = None) -> str:
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
    found = find_arms(runs.runs)
    several = len({arm.pair for arm in found}) > 1
    arms = []
    for place, arm in enumerate(found[:MOST_ARMS]):  # the students alone come last
        colour = ALONE_COLOUR if arm.alone else ARM_COLOURS[place % len(ARM_COLOURS)]
        line = "-." if arm.alone else ARM_LINES[place // len(ARM_COLOURS)]
        label = f"{arm.name}, {arm.pair}" if several else arm.name
        arms.append(DrawnArm(arm.name, arm.pair, arm.settings, arm.runs, label, colour, line))
    return Comparison(arms, len(found) - len(arms), several)


def damaged(runs: Runs) -> Iterator[str]:
    """What is wrong with the runs' files that figures read, a line each."""
    for run in runs.runs:
        for read in (lambda run: run.outputs, lambda run: SampleTemperatures.read(run.files)):
            try:
                read(run)
            except UserError as error:
                yield str(error)


def outputs_note(arms: Sequence[DrawnArm]) -> str:
    """Over how many seeds' outputs an arm's mean is, as a sentence; empty where each arm has one."""
    mean = over_seeds(arms, MOST_OUTPUTS)
    if not mean:
        return ""
    sampled = f", the first {MOST_OUTPUTS} runs of an arm" if any(len(arm.runs) > MOST_OUTPUTS for arm in arms) else ""
    return f" {mean}{sampled}; ± is the standard deviation between them."


def over_seeds(arms: Sequence[DrawnArm], most: int | None = None) -> str:
    """Over how many seeds an arm's mean is: ``"Mean over 3 seeds"``; empty where each arm has one.

    Args:
        arms: one or more.
        most: runs of an arm that are looked at; all by default.
    """
    sizes = sorted({len({run.summary.seed for run in arm.runs[:most]}) for arm in arms})
    if sizes == [1]:
        return ""
    return f"Mean over {sizes[0]} seeds" if len(sizes) == 1 else f"Mean over {sizes[0]} to {sizes[-1]} seeds an arm"
