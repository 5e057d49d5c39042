"""What the study of temperatures compares: each arm as settings of ``python -m ctkd_lightning.run``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REFERENCE = "fixed 4"
"""What the others are compared with."""

GRID = (1.0, 2.0, 2.87, 4.0, 8.0, 16.0)
"""Constant temperatures, one of which may be the best."""


@dataclass(frozen=True)
class Arm:
    """One way to train the student.

    Attributes:
        settings: of the command, beside those of all arms.
        replays: the temperature is what ``global`` had with the same seed: ``"path"`` in each epoch, ``"end"`` from the
            first to the last its last one.
        stage2: whether stage 2 has it too.
    """

    settings: tuple[str, ...] = ()
    replays: str | None = None
    stage2: bool = False


def _kd(temperature: str, *settings: str, weight: float = 0.9, ce: float = 0.1, stage2: bool = False) -> Arm:
    weights = (f"method.terms.kd.weight={weight:g}", f"method.ce_weight={ce:g}")
    more = tuple(f"temperature.{setting}" for setting in settings)
    return Arm((f"temperature={temperature}", *more, *weights), stage2=stage2)


ARMS: dict[str, Arm] = {
    **{f"fixed {tau:g}": _kd("fixed", f"tau={tau:g}", stage2=tau in (2.87, 4.0)) for tau in GRID},
    "global": _kd("global", stage2=True),
    "alone": Arm(("method=none",)),
    # what does the adversary do?
    "global, cooperative": _kd("global", "objective=cooperative", stage2=True),
    "global, held out": Arm(  # learns τ from the validation images, which stages 1 and 2 leave aside for all arms
        ("temperature=global", "temperature.objective=held_out", "data.val_size=0.1")
    ),
    "global's path, recorded": Arm(replays="path", stage2=True),
    "global's end, fixed": Arm(replays="end"),
    # others that are learned
    "instance": _kd("instance", stage2=True),
    "per_class": _kd("per_class"),
    # schedules
    "scheduled, 10 to 1": _kd("scheduled", "curve=linear", "start=10", "end=1", stage2=True),  # Annealing KD's ends
    "scheduled, cosine 4 to 1": _kd("scheduled", "curve=cosine", "start=4", "end=1"),
    "scheduled, DTS": _kd("scheduled", "curve=cosine", "start=4", "end=0", "least=2"),
    # rules, with their authors' numbers as far as these are published and of the temperature: DTKD's second term and
    # the warm-ups of DTKD and LumiNet are left out; Energy KD's shares are 20 % (its authors: 30 % for ResNet-56 to
    # ResNet-20), DTD's β and γ and TTM's weight are ours
    "normalized": _kd("normalized", "base.tau=2"),
    "standardized": _kd("standardized", "base.tau=2", weight=9.0),
    "spherical": _kd("spherical", "base.tau=4"),
    "dynamic": _kd("dynamic", "base.tau=4", weight=1.0, ce=1.0),
    "asymmetric": _kd("asymmetric", "tau_target=4", "tau_other=2", "tau_student=1", weight=0.5, ce=0.5),
    "transformed": _kd("transformed", "base.tau=10", weight=10.0, ce=1.0),  # weight ours: theirs, 45, can diverge
    "wttm": _kd("wttm", "base.tau=5", weight=4.0, ce=1.0),
    "class_scaled": _kd("class_scaled", "base.tau=4", weight=33.0**2, ce=1.0),
    "dynamic_batch, flsw": _kd("dynamic_batch", "weights=flsw"),
    "dynamic_batch, cwsm": _kd("dynamic_batch", "weights=cwsm"),
    "energy, sure sharper": _kd("energy", "sure=sharper"),
    "energy, sure softer": _kd("energy", "sure=softer"),
    # another loss
    "DKD, fixed 4": Arm(("method=dkd_ctkd", "temperature=fixed", "temperature.tau=4")),
    "DKD, global": Arm(("method=dkd_ctkd", "temperature=global")),
    "Annealing KD": Arm(("method=annealing_kd", "temperature=fixed")),
}

_FOLDER = (
    "data=image_folder",
    "data.mean=[0.480,0.448,0.398]",
    "data.std=[0.277,0.269,0.282]",
    "data.num_workers=0",
    "model=resnet56_to_resnet20",
    "data.batch_size=128",
    "data.val_size=0.1",  # which one arm reads
    "trainer.precision=bf16-mixed",  # some three times as fast where the hardware multiplies bfloat16; all arms alike
)


@dataclass(frozen=True)
class Stage:
    """The setting of a study, and which arms it has.

    Attributes:
        settings: of all arms.
        seeds: how many at least.
        arms: their names.
    """

    settings: tuple[str, ...]
    seeds: int
    arms: tuple[str, ...] = field(default=tuple(ARMS))


STAGES: dict[str, Stage] = {
    "digits": Stage(
        (
            "data=digits",
            "data.image_size=16",
            "data.padding=2",
            "data.val_size=0",
            "model.teacher.name=wrn_16_2",
            "model.student.name=resnet8",
            "model.pair=wrn_16_2_to_resnet8",
            "teacher.max_epochs=12",
            "max_epochs=6",  # a longer training needs no teacher here
            "curriculum.epochs=4",
        ),
        seeds=5,
    ),
    "1": Stage((*_FOLDER, "data.limit_train=10000", "max_epochs=12"), seeds=3),
    "2": Stage(
        (*_FOLDER, "data.limit_train=20000", "max_epochs=16"),
        seeds=5,
        arms=tuple(name for name, arm in ARMS.items() if arm.stage2),
    ),
}


def settings_of(name: str, path: Sequence[float], folder: Path) -> tuple[str, ...]:
    """The settings of an arm.

    Args:
        name: of the arm.
        path: τ of ``global`` with the same seed, at the end of each epoch; read by arms that replay it.
        folder: for a file that ``temperature=recorded`` reads.
    """
    arm = ARMS[name]
    if arm.replays == "path":
        rows = "".join(f"{epoch},{tau}\n" for epoch, tau in enumerate(path))
        (folder / "metrics.csv").write_text(f"epoch,ctkd/temperature\n{rows}")
        return ("temperature=recorded", f"temperature.run={folder}")
    if arm.replays == "end":
        return ("temperature=fixed", f"temperature.tau={path[-1]}")
    return arm.settings


def best_of_grid(top1: Mapping[str, float]) -> str:
    """Which constant temperature was the best, of the arms' mean accuracies."""
    return max((f"fixed {tau:g}" for tau in GRID), key=lambda name: top1[name])
