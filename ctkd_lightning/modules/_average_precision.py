"""How well boxes are found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from ctkd_lightning.data._annotated import Objects
from ctkd_lightning.errors import UserError


class AveragePrecision(nn.Module):
    """COCO's average precision in percent: torchmetrics' ``MeanAveragePrecision``.

    Raises:
        UserError: pycocotools, which that needs, is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        from torchmetrics.detection import MeanAveragePrecision  # takes a second, that others need not wait

        try:
            self.metric = MeanAveragePrecision(box_format="xyxy", iou_type="bbox")
        except ModuleNotFoundError as error:
            raise UserError(
                "the average precision of detectors needs pycocotools: pip install 'ctkd-lightning[detection]'"
            ) from error

    def update(self, found: Sequence[Objects], objects: Sequence[Objects]) -> None:
        """Count a batch.

        Args:
            found: of each image ``boxes``, ``labels`` and ``scores``, as torchvision's detectors give them.
            objects: what is in the image.
        """
        self.metric.update([_read(each) for each in found], [_read(each) for each in objects])

    def compute(self) -> dict[str, Tensor]:
        """``map``, the mean over classes and over IoU from 0.50 to 0.95, and ``ap50``, that at an IoU of 0.50.

        Percent, 0 to 100; NaN where no image had an object.
        """
        found: dict[str, Tensor] = cast(Any, self.metric.compute())
        values = {"map": found["map"], "ap50": found["map_50"]}
        return {name: value.where(value >= 0, float("nan")) * 100 for name, value in values.items()}

    def reset(self) -> None:
        """Forget all batches."""
        self.metric.reset()


_KEYS = ("boxes", "labels", "scores", "iscrowd", "area")


def _read(objects: Objects) -> Objects:
    """What the metric reads, which keeps it: masks are large."""
    return {name: objects[name].detach() for name in _KEYS if name in objects}
