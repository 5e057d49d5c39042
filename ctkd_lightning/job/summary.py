"""What a run came to: ``summary.json``, in types."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Literal

from torch import nn

from ctkd_lightning._reading import read_json
from ctkd_lightning.job._types import of_its_types
from ctkd_lightning.job.hardware import describe_hardware
from ctkd_lightning.job.measures import MEASURES, TaskName
from ctkd_lightning.job.run_directory import RunDirectory

Stage = Literal["teacher", "baseline", "student", "encoders", "fusion", "test"]
Status = Stage | Literal["complete", "stopped", "failed"]

_NO_EFFECT = " (no effect)"  # version 0.1 wrote it behind a choice


@dataclass
class NetworkSummary:
    """One of the two networks.

    Attributes:
        name: as in ``model=``.
        parameters: their number.
        top1: accuracy on the test data, percent.
        top5: likewise.
        train_seconds: of teacher and baseline, their training, whenever that was; ``None`` where it was not in one go
            or elsewhere. That of the student is the run's.
        map: of a detector, its mean average precision on the test data, percent.
        ap50: likewise, at an IoU of 0.5.
        miou: of a segmenter, its mean intersection over union on the test data, percent.
        pixel_accuracy: likewise, the share of pixels whose class is right.
        bits: of a language model, the bits that a byte of the test texts takes.
        nats: likewise, a token: its cross-entropy.
    """

    name: str
    parameters: int | None = None
    top1: float | None = None
    top5: float | None = None
    train_seconds: float | None = None
    map: float | None = None
    ap50: float | None = None
    miou: float | None = None
    pixel_accuracy: float | None = None
    bits: float | None = None
    nats: float | None = None

    @property
    def score(self) -> float | None:
        """What tells how good it is: the first measure of its task."""
        found = (getattr(self, measures[0].name) for measures in MEASURES.values())
        return next((value for value in found if value is not None), None)


@dataclass
class Best:
    """The student's best epoch.

    Attributes:
        top1: percent.
        epoch: from 1.
        chosen_on: the data that it is the best on.
        map: of a detector, in the place of ``top1``, percent.
        miou: of a segmenter, likewise.
        nats: of a language model, likewise, a token.
    """

    top1: float | None = None
    epoch: int | None = None
    chosen_on: Literal["validation", "test"] | None = None
    map: float | None = None
    miou: float | None = None
    nats: float | None = None


@dataclass(kw_only=True)
class RunSummary:
    """What a run was, and what it came to, whatever its job.

    Attributes:
        data: the choice of this group; likewise ``temperature`` and ``curriculum``.
        without_effect: those of the choices that change nothing in this run.
        seed: of the training.
        precision: of the training.
        status: while the run goes on the stage; then how it ended.
        stage: the last one that was begun.
        error: of a failed run, in one line.
        epochs: of the training, finished.
        best: the best of them.
        skipped_steps: left out since their gradients were not finite (``on_nan=skip``).
        train_seconds: the training, parts before a resume with it.
        images_per_second: its rate, of images or other samples, such as texts.
        final: the last values of λ and τ by metric name.
        saturated: those of them that are a τ at an end of its range, where it hardly learns.
    """

    data: str
    temperature: str
    curriculum: str
    seed: int
    precision: str = "32-true"
    status: Status
    stage: Stage
    error: str | None = None
    without_effect: list[str] = field(default_factory=list)
    epochs: int = 0
    best: Best = field(default_factory=Best)
    final: dict[str, float] = field(default_factory=dict)
    saturated: list[str] = field(default_factory=list)
    skipped_steps: int = 0
    train_seconds: float = 0.0
    images_per_second: float | None = None
    versions: dict[str, str | None] = field(default_factory=dict)
    git: str | None = None
    hardware: dict[str, str | int] = field(default_factory=dict)

    _taken_over: ClassVar[tuple[str, ...]] = (
        "epochs",
        "best",
        "final",
        "saturated",
        "train_seconds",
        "images_per_second",
    )

    def take_over(self, earlier: RunSummary | None) -> None:
        """Go on from the part of the training before a resume: what it came to stands until this part has more.

        Args:
            earlier: of this job; one of another job, or none, has nothing to take over.
        """
        if isinstance(earlier, type(self)):
            for name in self._taken_over:
                setattr(self, name, getattr(earlier, name))

    def write(self, run: RunDirectory) -> None:
        """Write ``summary.json``."""
        run.write(run.summary, json.dumps(asdict(self), indent=2) + "\n")


@dataclass(kw_only=True)
class Summary(RunSummary):
    """Of a distillation.

    Attributes:
        model: the pair's name, or the two networks'.
        task: what the networks do.
        method: the terms' names.
        teacher: the one network, ``None`` where the student learns alone; likewise ``student``.
        baseline: the student trained alone beside the run, where that was asked for.
        num_classes: of the data.
        test_data: what tells these test samples from others; equal for runs that were tested on the same.
        teacher_cache: the share of the views that the cache knew.
    """

    model: str
    method: str
    teacher: NetworkSummary | None
    student: NetworkSummary
    baseline: NetworkSummary | None = None
    task: TaskName = "classification"
    num_classes: int | None = None
    test_data: str | None = None
    status: Status = "teacher"
    stage: Stage = "teacher"
    teacher_cache: float | None = None

    _taken_over: ClassVar[tuple[str, ...]] = (*RunSummary._taken_over, "teacher_cache")


@dataclass(kw_only=True)
class FusionSummary(RunSummary):
    """Of a fusion.

    Attributes:
        encoders: the choice of this group; likewise ``fusion``.
        modalities: their names.
        parameters: of encoders and fusion.
        fitted: the factors that were fitted on the validation data in the end, by modality.
        student: test top-1 of the student of one modality, ``alone`` and ``distilled`` from the fused network.
        conditions: by condition of the test, accuracies in percent by name: ``fused``, each modality's, ``product``
            and ``average`` of the same scores; and by ``auroc/<modality>`` how well τ tells corrupted samples.
    """

    encoders: str
    fusion: str
    modalities: list[str] = field(default_factory=list)
    status: Status = "encoders"
    stage: Stage = "encoders"
    parameters: int | None = None
    fitted: dict[str, float] | None = None
    student: dict[str, float] | None = None
    conditions: dict[str, dict[str, float]] = field(default_factory=dict)


def read_summary(run: RunDirectory) -> Summary | FusionSummary | None:
    """The summary of a run, of version 0.1 too; ``None`` where there is none that can be read."""
    try:
        content: dict[str, Any] = read_json(run.summary)
        summary = _fusion_from_json(content) if "encoders" in content else _from_json(content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return summary if of_its_types(summary) else None


def _from_json(content: dict[str, Any]) -> Summary:
    known = {name: value for name, value in content.items() if name in Summary.__dataclass_fields__}
    for role in ("teacher", "student", "baseline"):
        known[role] = NetworkSummary(**content[role]) if content.get(role) else None
    if known["student"] is None:
        raise KeyError("student")
    best = dict(content.get("best") or {})
    if best.get("chosen_on"):
        best["chosen_on"] = best["chosen_on"].removeprefix("best on ")
    known["best"] = Best(**best)
    without = list(content.get("without_effect", ()))
    for group in ("temperature", "curriculum"):
        if known[group].endswith(_NO_EFFECT):
            known[group] = known[group].removesuffix(_NO_EFFECT)
            without.append(group)
    status, _, stage = known.get("status", "teacher").partition(" in stage ")
    if stage:
        known["stage"] = stage
    elif "stage" not in known:
        known["stage"] = "test" if status == "complete" else status
    return Summary(**{**known, "status": status, "without_effect": without})


def _fusion_from_json(content: dict[str, Any]) -> FusionSummary:
    known = {name: value for name, value in content.items() if name in FusionSummary.__dataclass_fields__}
    return FusionSummary(**{**known, "best": Best(**content.get("best") or {})})


def describe_environment() -> dict[str, Any]:
    """Versions, the working directory's git commit, and hardware."""
    packages = ("ctkd-lightning", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core")
    versions = {"python": sys.version.split()[0], **{name: package_version(name) for name in packages}}
    return {"versions": versions, "git": _git_commit(), "hardware": describe_hardware()}


def parameters_of(network: nn.Module) -> int:
    """Number of a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def package_version(package: str) -> str | None:
    """The installed version of a package; ``None`` of one that is not installed, or is a checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return git.stdout.strip() or None
