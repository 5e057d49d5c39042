"""What networks are judged by, by task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TaskName = Literal["classification", "detection", "segmentation", "language"]


@dataclass(frozen=True)
class Measure:
    """One number of a network on test data.

    Attributes:
        name: in ``summary.json``.
        label: the reader's.
        unit: ``"%"``, or none.
        long: the label in a sentence.
        less_is_better: as of a loss.
        digits: of which a reader needs as many behind the point.
    """

    name: str
    label: str
    unit: str = "%"
    long: str = ""
    less_is_better: bool = False
    digits: int = 2

    @property
    def title(self) -> str:
        """Of a column."""
        return f"{self.label} {self.unit}".rstrip()

    @property
    def points(self) -> str:
        """What differences are counted in."""
        return "points" if self.unit == "%" else self.label


MEASURES: Mapping[TaskName, tuple[Measure, Measure]] = {
    "classification": (Measure("top1", "top-1", long="Top-1 accuracy"), Measure("top5", "top-5")),
    "detection": (Measure("map", "mAP", long="Mean average precision"), Measure("ap50", "AP50")),
    "segmentation": (
        Measure("miou", "mIoU", long="Mean intersection over union"),
        Measure("pixel_accuracy", "pixel accuracy"),
    ),
    "language": (
        Measure("bits", "bits a byte", unit="", long="Bits a byte", less_is_better=True, digits=3),
        Measure("nats", "nats a token", unit="", less_is_better=True, digits=3),
    ),
}
"""By task; the first is the score by which networks are compared."""

BEST: Mapping[str, Measure] = {
    "val/top1": MEASURES["classification"][0],
    "val/map": MEASURES["detection"][0],
    "val/miou": MEASURES["segmentation"][0],
    "val/loss": MEASURES["language"][1],
}
"""By metric: what the best epoch is chosen by."""

SAMPLES: Mapping[TaskName, str] = {
    "classification": "images",
    "detection": "images",
    "segmentation": "images",
    "language": "texts",
}
"""What the rate of a training counts."""
