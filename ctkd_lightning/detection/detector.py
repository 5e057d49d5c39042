"""A detector, seen through its children."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ctkd_lightning.detection._images import normalisation_of, renormalised
from ctkd_lightning.detection.output import DetectorOutput
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import NetworkOutput, Step

Heard = dict[str, Any]
"""What the hooks of a tap kept of one forward pass, by name."""


class Detector(ABC):
    """What distillation needs to know of one family of detectors.

    Args:
        network: the detector itself, unwrapped.

    Attributes:
        family: its name, for messages.
        task: whether the scores of a place are a softmax over the classes, background included (``"multiclass"``), or
            each class stands against the rest (``"multilabel"``).
        places: what it scores, for messages.
    """

    family: ClassVar[str]
    task: ClassVar[Literal["multiclass", "multilabel"]]
    places: ClassVar[str]

    def __init__(self, network: nn.Module) -> None:
        self.network: Any = network

    @classmethod
    @abstractmethod
    def fits(cls, network: Any) -> bool:
        """Whether a network has this family's children."""

    @property
    @abstractmethod
    def num_classes(self) -> int | None:
        """Classes that it scores; ``None`` where they cannot be told from its layers."""

    @abstractmethod
    def watched(self) -> Mapping[str, tuple[nn.Module, Literal["input", "output"]]]:
        """The children to watch in a forward pass, and whether their positional inputs or their output are kept."""

    @abstractmethod
    def output(self, heard: Heard, roles: Collection[str]) -> DetectorOutput:
        """What the forward pass gave, from what was kept of it.

        Args:
            heard: of each of :meth:`watched`.
            roles: features that are read.
        """

    @abstractmethod
    def score(self, student: DetectorOutput, roles: Collection[str]) -> NetworkOutput:
        """Its scores of a student's places on the student's images: backbone, pooling and heads alone.

        Args:
            student: what the student gave.
            roles: features that are read.
        """

    @abstractmethod
    def step(self, student: DetectorOutput, teacher: NetworkOutput) -> Step:
        """What is known of the places: the assigned classes, and the weight of each place in the terms.

        Args:
            student: what the student gave.
            teacher: what the teacher says of the same places.
        """

    def check_teacher(self, teacher: Detector) -> None:
        """Look whether the places of this student can be scored by a teacher of the same family.

        Raises:
            UserError: another number of classes.
        """
        own, other = self.num_classes, teacher.num_classes
        if own is not None and other is not None and own != other:
            raise UserError(
                f"the student scores {own} classes and the teacher {other}, background included where they have it: "
                "take a teacher of the same classes"
            )

    def features(self, images: Tensor) -> Any:
        """What its backbone makes of images, by level."""
        features = self.network.backbone(images)
        return {"0": features} if isinstance(features, Tensor) else features

    def images_of(self, student: DetectorOutput) -> Tensor:
        """A student's images, normalised as this detector does it."""
        return renormalised(student.images, student.sizes, student.normalisation, normalisation_of(self.network))


def has_children(module: Any, *names: str) -> bool:
    """Whether a module has modules of these names."""
    return all(isinstance(getattr(module, name, None), nn.Module) for name in names)
