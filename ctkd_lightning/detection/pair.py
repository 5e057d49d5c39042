"""A detector that is distilled from another."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

from torch import nn

from ctkd_lightning.detection.detector import Detector
from ctkd_lightning.detection.find import find_detector
from ctkd_lightning.detection.output import BOXES, DetectorOutput
from ctkd_lightning.detection.tap import DetectorTap
from ctkd_lightning.errors import UserError
from ctkd_lightning.features._asking import AskTeacher, StudentCall
from ctkd_lightning.features.outputs import NetworkOutput, Step


class DetectorPair:
    """What the engine must be told to distil a detector, and the tap on the student.

    The student's own forward pass is listened to; the teacher scores the same proposals or anchors on the images that
    the student has resized, normalised and padded.

    Args:
        detector: the teacher; where ``ask`` asks something else, the student.
        needs: feature roles that the methods read.
        ask: from the teacher and the student's call to the teacher's scores of the student's places, where the teacher
            is no detector of the student's family; ``call.output`` is the student's :class:`DetectorOutput`.
    """

    def __init__(self, detector: Detector, needs: Collection[str] = (), ask: AskTeacher | None = None) -> None:
        self.detector, self.ask = detector, ask
        self.roles = [role for role in needs if role == BOXES]

    @property
    def settings(self) -> dict[str, Any]:
        """Of :class:`~ctkd_lightning.Distillation`."""
        single = self.detector.task == "multilabel"
        return {
            "task": self.detector.task,
            "class_dim": None if single else -1,
            "sum_labels": single,
            "ask_teacher": self._score if self.ask is None else self.ask,
            "roles_of_outputs": self.roles,
        }

    def student(self, network: nn.Module) -> Detector:
        """The detector in the student's place, looked at.

        Raises:
            UserError: there is none, or one whose places the teacher cannot score.
        """
        detector = find_detector(network)
        family = self.detector.family
        if detector is None:
            raise UserError(
                f"the teacher is a detector, a {family}, and the student, {type(network).__name__}, is none that is "
                "known by its children: name the detector with student=, or say with ask_teacher= what the teacher "
                "gives for the student's call"
            )
        if type(detector) is not type(self.detector):
            raise UserError(
                f"the student is a {detector.family} and the teacher a {family}, which score other places: take a "
                "teacher of the student's family, or say with ask_teacher= how it scores the student's "
                f"{detector.places} (call.output.places)"
            )
        if self.ask is None:
            detector.check_teacher(self.detector)
        return detector

    def tap(self, network: nn.Module) -> DetectorTap:
        """What listens to the student."""
        return DetectorTap(self.student(network), self.roles)

    def step(self, student: NetworkOutput, teacher: NetworkOutput) -> Step:
        """What is known of the student's places."""
        return self.detector.step(cast(DetectorOutput, student), teacher)

    def _score(self, network: nn.Module, call: StudentCall) -> NetworkOutput:
        return self.detector.score(call.output, self.roles)
