"""The runs that are broken: each way of training that keeps something else."""

from __future__ import annotations

from dataclasses import dataclass

_SMALL = (
    "data=fake", "data.train_size=104", "data.test_size=32", "data.image_size=8", "data.batch_size=16",
    "data.num_classes=4", "data.padding=1", "data.val_size=8", "model=resnet56_to_resnet20",
    "model.teacher.name=resnet8", "model.student.name=resnet8", "teacher.max_epochs=1", "teacher.check=false",
    "trainer=cpu", "logger=csv", "max_epochs=3", "report=false", "checkpoint_every_steps=2",
)  # fmt: skip
_FUSION = (
    "experiment=fusion_digits", "data.limit_train=96", "data.limit_eval=64", "data.batch_size=16", "trainer=cpu",
    "fusion.conditions=null", "logger=csv", "max_epochs=3", "checkpoint_every_steps=2",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A run.

    Attributes:
        name: for the table.
        settings: of the command; of a script the name of its module.
        processes: how many train.
        script: a module with a ``main`` in the command's place.
    """

    name: str
    settings: tuple[str, ...]
    processes: int = 1
    script: str | None = None


CASES = [
    Case("kd, in memory", _SMALL),
    Case("kd, 2 workers", (*_SMALL, "data.in_memory=false", "data.num_workers=2")),
    Case("kd, teacher cache", (*_SMALL, "teacher_cache=auto")),
    Case("crd, memory", (*_SMALL, "method=[crd,kd]")),
    Case("instance", (*_SMALL, "temperature=instance")),
    Case("held out", (*_SMALL, "temperature.objective=held_out", "data.val_size=24")),
    Case("fusion", _FUSION),
    Case("fusion, frozen encoders", (*_FUSION, "fusion.frozen=true", "fusion.encoder_epochs=2")),
    Case("instance, 2 processes", (*_SMALL, "temperature=instance", "trainer=ddp_cpu"), processes=2),
    Case("plug-in", (), script="tests.chaos.plugin"),
    Case("module", (), script="tests.chaos.module"),
]
