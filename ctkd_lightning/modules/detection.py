"""The LightningModule that trains a detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from ctkd_lightning._across_processes import samples_of_all
from ctkd_lightning.data._annotated import AnnotatedBatch, Objects
from ctkd_lightning.errors import UserError
from ctkd_lightning.modules._average_precision import AveragePrecision
from ctkd_lightning.modules._trained import MakeOptimizer, MakeScheduler, TrainedModule

_STAGES = ("val", "test")


class DetectionModule(TrainedModule):
    r"""Train a detector with the sum of its own losses: a teacher, or a student alone.

    .. math:: L = \sum_k L_k

    The detector is one as torchvision's: in training ``detector(images, objects)`` gives losses by name, in evaluation
    ``detector(images)`` gives boxes, labels and scores of each image. Batches are those of
    :class:`~ctkd_lightning.data.DetectionDataModule`. It logs ``train/loss`` and each of the detector's losses under
    its own name, such as ``train/loss_classifier``, and on validation and test data COCO's average precision in
    percent, ``map`` and ``ap50``.

    It knows nothing of distillation:
    ``CurriculumTemperatureCallback(teacher=…, student="network")`` in the Trainer distils it.

    Args:
        network: the detector.
        optimizer: makes the optimizer of the trainable parameters; the CTKD paper's SGD by default.
        scheduler: makes the learning rate's scheduler; none by default.

    Raises:
        UserError: pycocotools is not installed; in use, batches of another kind, or a detector that gives no losses.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ) -> None:
        super().__init__(optimizer, scheduler)
        self.network = network
        self.average_precision = nn.ModuleDict({stage: AveragePrecision() for stage in _STAGES})

    @property
    def networks(self) -> tuple[object, ...]:
        """Which FSDP2 shards: the detector."""
        return (self.network,)

    def forward(self, images: list[Tensor]) -> list[Objects]:
        """What the detector finds in images."""
        found: list[Objects] = self.network(images)
        return found

    def training_step(self, batch: AnnotatedBatch, batch_idx: int) -> Tensor:
        """One step: the sum of the detector's losses."""
        images, objects = _parts(batch)
        losses = self.network(images, objects)
        if not isinstance(losses, Mapping) or not all(isinstance(loss, Tensor) for loss in losses.values()):
            raise UserError(
                f"{type(self.network).__name__} must give its losses by name in training, as torchvision's detectors "
                f"do, found {type(losses).__name__}"
            )
        total = sum(losses.values(), start=images[0].new_zeros(()))
        self.record.add({"loss": total, **losses}, samples_of_all(len(images), images[0].device))
        return total

    def validation_step(self, batch: AnnotatedBatch, batch_idx: int) -> None:
        """Boxes of a validation batch."""
        self._find("val", batch)

    def test_step(self, batch: AnnotatedBatch, batch_idx: int) -> None:
        """Boxes of a test batch."""
        self._find("test", batch)

    def predict_step(self, batch: AnnotatedBatch, batch_idx: int) -> list[Objects]:
        """What the detector finds in a batch."""
        return self(_parts(batch)[0])

    def on_validation_epoch_end(self) -> None:
        """Log the average precision."""
        self._tell("val")

    def on_test_epoch_end(self) -> None:
        """Likewise."""
        self._tell("test")

    def _find(self, stage: str, batch: AnnotatedBatch) -> None:
        images, objects = _parts(batch)
        cast(AveragePrecision, self.average_precision[stage]).update(self(images), objects)

    def _tell(self, stage: str) -> None:
        metric = cast(AveragePrecision, self.average_precision[stage])
        for name, value in metric.compute().items():  # of all processes' images together: their mean is each one's
            shown = stage == "val" and name == "map"
            self.log(f"{stage}/{name}", value.to(self.device), prog_bar=shown, sync_dist=True)
        metric.reset()


def _parts(batch: Any) -> AnnotatedBatch:
    """Images and their objects.

    Raises:
        UserError: it is another kind of batch.
    """
    pair = isinstance(batch, list | tuple) and len(batch) == 2
    if pair and all(isinstance(part, list | tuple) and part for part in batch):
        images, objects = batch
        if all(isinstance(image, Tensor) for image in images) and all(isinstance(each, Mapping) for each in objects):
            return list(images), list(objects)
    raise UserError(
        "a detector's batch must be a list of images and a list of dictionaries with boxes and labels, found "
        f"{type(batch).__name__}: collate it so, as ctkd_lightning.data.DigitScenes does"
    )
