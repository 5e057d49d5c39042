"""Whether the networks' confidence is their accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ctkd_lightning.job.outputs import NetworkOutputs
from ctkd_lightning.job.quality import BINS, calibration_error, confidence
from ctkd_lightning.reporting.arms import alone_settings, teacher_settings
from ctkd_lightning.reporting.figures._canvas import ALONE_COLOUR, TEACHER_COLOUR, canvas, legend, wrapped
from ctkd_lightning.reporting.figures._comparison import NO_OUTPUTS, Comparison, DrawnArm, Missing, outputs_note
from ctkd_lightning.reporting.figures._words import seed_means, spread
from ctkd_lightning.reporting.picture import Picture
from ctkd_lightning.reporting.runs import ALONE
from ctkd_lightning.reporting.settings import Settings, differing
from ctkd_lightning.reporting.tables import NONE

MOST_STUDENTS = 4

_Binned = NDArray[np.float64]
"""(3, BINS): of the samples in each bin the sum of the confidences, those that are right, and their number."""


@dataclass
class _Judged:
    """One network, or the same of several seeds.

    Attributes:
        pair: of networks.
        settings: that decide it.
        colour: of its line.
        line: its style.
        binned: by seed, of each run.
        errors: likewise its ECE, percent.
    """

    pair: str
    settings: Settings
    colour: str
    line: str
    binned: list[tuple[int, _Binned]] = field(default_factory=list)
    errors: list[tuple[int, float]] = field(default_factory=list)

    def add(self, seed: int, network: NetworkOutputs, target: Tensor) -> None:
        finite = network.logits.isfinite().all(dim=1)
        sure, right = confidence(network.logits[finite], target[finite])
        if len(right):
            self.binned.append((seed, binned(sure, right)))
            self.errors.append((seed, 100 * calibration_error(sure, right)))

    @property
    def ece(self) -> str:
        return f"ECE {spread(seed_means(self.errors), 2)} %"


def reliability(comparison: Comparison) -> Picture:
    """Accuracy over confidence of teachers, students, and students alone.

    Raises:
        Missing: no run has kept logits.
    """
    students = comparison.distilled[:MOST_STUDENTS]
    drawn = [arm for arm in comparison.arms if arm.alone or any(arm is other for other in students)]
    networks = {label: network for label, network in _networks(drawn).items() if network.errors}
    if not networks:
        raise Missing(NO_OUTPUTS)

    figure, (axes,) = canvas(4.6)
    axes.plot([0, 1], [0, 1], ":", color=axes.xaxis.label.get_color(), linewidth=1)
    for label, network in networks.items():
        x, y, samples = reliability_curve(np.sum(seed_means(network.binned), axis=0))
        shown = wrapped(f"{label}: {network.ece}")
        axes.plot(x, y, network.line, color=network.colour, label=shown, linewidth=1.2)
        axes.scatter(x, y, s=5 + 150 * samples / samples.sum(), color=network.colour, linewidths=0)
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
    legend(figure, axes.lines[1:])

    caption = (
        f"Accuracy of the test samples by the confidence of the guess, in {BINS} bins of equal width; larger points "
        "hold more samples, and on the dotted line a network is as often right as it says. ECE, the expected "
        f"calibration error, is the mean distance to that line.{outputs_note(drawn)}"
    )
    told = [f"{label}: {network.ece}" for label, network in networks.items()]
    return Picture(
        name="reliability",
        title="Confidence and accuracy",
        caption=comparison.caption(caption, drawn, comparison.arms),
        alt="Expected calibration error. " + "; ".join(told) + ".",
        figure=figure,
        section="agreement",
    )


def _networks(arms: Sequence[DrawnArm]) -> dict[str, _Judged]:
    """Each network by its label, in the legend's order: teachers, students, students alone.

    A teacher is the same network for all arms whose settings of it are the same; likewise a student alone, be it
    of runs of its own or trained beside others.
    """
    teachers: list[_Judged] = []
    students: dict[str, _Judged] = {}
    alone: list[_Judged] = []
    for arm in arms:
        of_role = {"teacher": _known(teachers, arm.pair, teacher_settings(arm), TEACHER_COLOUR, "-")}
        beside = _known(alone, arm.pair, alone_settings(arm), ALONE_COLOUR, "-.")
        if arm.alone:
            of_role["student"] = beside
        else:
            of_role["student"] = students[arm.label] = _Judged(arm.pair, arm.settings, arm.colour, arm.line)
            of_role["baseline"] = beside
        for run, outputs in arm.outputs():
            for role, network in of_role.items():
                if role in outputs.networks:
                    network.add(run.summary.seed, outputs.networks[role], outputs.target)
    return _labelled("teacher", teachers) | students | _labelled(ALONE, alone)


def _known(networks: list[_Judged], pair: str, settings: Settings, colour: str, line: str) -> _Judged:
    """The network of a pair with these settings, a new one where there is none yet."""
    found = next((one for one in networks if (one.pair, one.settings) == (pair, settings)), None)
    if found is None:
        networks.append(found := _Judged(pair, settings, colour, line))
    return found


def _labelled(name: str, networks: list[_Judged]) -> dict[str, _Judged]:
    """Those with samples by what tells them apart: their pair, and the settings that differ within it."""
    networks = [network for network in networks if network.errors]
    several = len({network.pair for network in networks}) > 1
    labelled = {}
    for network in networks:
        keys = differing(other.settings for other in networks if other.pair == network.pair)
        words = [network.pair] * several + [f"{key}={network.settings.get(key, NONE)}" for key in keys]
        labelled[", ".join([name, *words])] = network
    return labelled


def binned(confidence: Tensor, right: Tensor) -> _Binned:
    """Sums over the samples (N,) in each of the bins of the expected calibration error."""
    x, edges = confidence.numpy(), np.linspace(0, 1, BINS + 1)
    return np.stack([np.histogram(x, edges, weights=weights)[0] for weights in (x, right.double().numpy(), None)])


def reliability_curve(binned: _Binned) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean confidence, accuracy and number of samples of each bin that has any."""
    confidence, right, samples = binned[:, binned[2] > 0]
    return confidence / samples, right / samples, samples
