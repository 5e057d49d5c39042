"""Whether a training distils detectors, and what a callback's settings mean then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ctkd_lightning.callbacks.plugin.attach import find_network
from ctkd_lightning.detection import Detector, DetectorPair, find_detector
from ctkd_lightning.distillation import Distillation
from ctkd_lightning.errors import UserError


def detectors_of(
    teacher: nn.Module, module: nn.Module, student: str | None, methods: Iterable[Any], settings: Mapping[str, Any]
) -> DetectorPair | None:
    """How a detector is distilled; ``None`` where the teacher is none, or the user says where the logits are.

    Args:
        teacher: with ``ask_teacher`` any network, if the student is a detector.
        module: the LightningModule.
        student: dotted name of the student in it.
        methods: the terms.
        settings: the callback's that were given, by name.

    Raises:
        UserError: several detectors for teachers, or settings without effect on a detector.
    """
    if settings.keys() & {"student_logits", "teacher_logits"}:
        return None
    ask = settings.get("ask_teacher")
    if ask is None and isinstance(teacher, nn.ModuleDict):
        if any(find_detector(network) is not None for network in teacher.values()):
            raise UserError("several teachers are not fused where they are detectors: pass one, teacher=detector")
        return None
    detector = find_detector(teacher) if ask is None else _student(module, student)
    if detector is None:
        return None
    without_effect = sorted(settings.keys() - {"ask_teacher", "student_layers", "teacher_layers"})
    if without_effect:
        raise UserError(
            f"{', '.join(without_effect)} would have no effect: what a {detector.family} scores, and what is known of "
            f"its {detector.places}, is read from the student's own forward pass; leave it out"
        )
    return DetectorPair(detector, [role for method in methods for role in method.needs], ask)


def _student(module: nn.Module, name: str | None) -> Detector | None:
    """The student, if it is a detector; ``None`` also where the module makes it later."""
    try:
        return find_detector(find_network(module, name))
    except UserError:
        return None


def check_detectors(
    student: nn.Module, pair: DetectorPair | None, engine: Distillation, settings: Mapping[str, Any]
) -> None:
    """Look at the start whether the student is what the teacher can be asked about.

    Args:
        student: the network.
        pair: what was made of the teacher.
        engine: of the training.
        settings: as for :func:`detectors_of`.

    Raises:
        UserError: one of both is a detector and the other is none; detectors that do not go together, or a method that
            does not go with them.
    """
    if pair is not None:
        detector = pair.student(student)
        if detector.task == "multilabel" and engine.needs_target:
            raise UserError(
                f"method {'+'.join(engine.terms)}, or its temperature, reads the one class that is right, and a "
                f"{detector.family} scores each class against the rest: take one that reads logits alone, such as KD()"
            )
        return
    if settings.keys() & {"student_logits", "ask_teacher"}:
        return
    found = find_detector(student)
    if found is not None:
        teacher = type(engine.teacher.network).__name__
        raise UserError(
            f"the student is a detector, a {found.family}, and the teacher, {teacher}, is none that is known by its "
            f"children: take a {found.family}, or say with ask_teacher= how it scores the student's {found.places} "
            "(call.output.places)"
        )
