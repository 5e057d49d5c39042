"""Whether the networks' confidence is their accuracy."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctkd_lightning.job.outputs import NetworkOutputs
from ctkd_lightning.reporting.figures._canvas import ALONE_COLOUR, TEACHER_COLOUR, canvas, legend, literal
from ctkd_lightning.reporting.figures._comparison import NO_OUTPUTS, Comparison, Missing, outputs_note
from ctkd_lightning.reporting.figures._words import spread
from ctkd_lightning.reporting.picture import Picture
from ctkd_lightning.reporting.runs import ALONE

BINS = 15
MOST_STUDENTS = 4


@dataclass
class _Judged:
    """One network over several runs: confidences and whether they were right, and each run's ECE in percent."""

    colour: str
    line: str
    confidence: list[Tensor] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def add(self, network: NetworkOutputs, target: Tensor) -> None:
        confidence, right = judged(network, target)
        if len(right):
            self.confidence.append(confidence)
            self.right.append(right)
            self.errors.append(calibration_error(confidence, right))


def reliability(comparison: Comparison) -> Picture:
    """Accuracy over confidence of teachers, students, and students alone.

    Raises:
        Missing: no run has kept logits.
    """
    networks: dict[str, _Judged] = {}
    students = comparison.distilled[:MOST_STUDENTS]
    drawn = [arm for arm in comparison.arms if arm.alone or any(arm is other for other in students)]
    for arm in drawn:
        for run, outputs in arm.outputs():
            pair = f", {run.summary.model}" if comparison.several_models else ""
            labels = {  # in the legend's order
                "teacher": (f"teacher{pair}", TEACHER_COLOUR, "-"),
                "student": (arm.label, arm.colour, arm.line),
                "baseline": (f"{ALONE}{pair}", ALONE_COLOUR, "-."),
            }
            for role, (label, colour, line) in labels.items():
                if role in outputs.networks:
                    judged_so_far = networks.setdefault(label, _Judged(colour, line))
                    judged_so_far.add(outputs.networks[role], outputs.target)
    alone_last = sorted(networks.items(), key=lambda item: item[0].startswith(ALONE))
    networks = {label: network for label, network in alone_last if network.right}
    if not networks:
        raise Missing(NO_OUTPUTS)

    figure, (axes,) = canvas(4.2 + 0.22 * len(networks))
    axes.plot([0, 1], [0, 1], ":", color=axes.xaxis.label.get_color(), linewidth=1)
    for label, network in networks.items():
        confidence, right = torch.cat(network.confidence), torch.cat(network.right)
        x, y, samples = reliability_curve(confidence, right)
        shown = f"{literal(label)}: ECE {spread(network.errors, 2)} %"
        axes.plot(x, y, network.line, color=network.colour, label=shown, linewidth=1.2)
        axes.scatter(x, y, s=5 + 150 * samples / samples.sum(), color=network.colour, linewidths=0)
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
    legend(figure, axes.lines[1:])

    caption = (
        f"Accuracy of the test samples by the confidence of the guess, in {BINS} bins of equal width; larger points "
        "hold more samples, and on the dotted line a network is as often right as it says. ECE, the expected "
        f"calibration error, is the mean distance to that line.{outputs_note(drawn)}"
    )
    told = [f"{label}: ECE {spread(network.errors, 2)} %" for label, network in networks.items()]
    return Picture(
        name="reliability",
        title="Confidence and accuracy",
        caption=comparison.caption(caption, drawn, comparison.arms),
        alt="Expected calibration error. " + "; ".join(told) + ".",
        figure=figure,
        section="agreement",
    )


def judged(network: NetworkOutputs, target: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence of each guess (N,), and whether it is right (N,); samples without finite logits are left out."""
    finite = network.logits.isfinite().all(dim=1)
    confidence, guess = network.logits[finite].softmax(dim=1).max(dim=1)
    return confidence, guess == target[finite]


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """The expected calibration error, percent (Guo et al., 2017)."""
    from torchmetrics.functional.classification import binary_calibration_error

    return 100 * float(binary_calibration_error(confidence, right.long(), n_bins=BINS))


def reliability_curve(
    confidence: Tensor, right: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean confidence, accuracy and number of samples of each bin that has any."""
    from sklearn.calibration import calibration_curve

    accuracy, mean = calibration_curve(right.long().numpy(), confidence.numpy(), n_bins=BINS, pos_label=1)
    samples, _ = np.histogram(confidence.numpy(), np.linspace(0, 1, BINS + 1))
    return mean, accuracy, samples[samples > 0]
