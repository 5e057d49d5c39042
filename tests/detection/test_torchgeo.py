"""torchgeo's detection task, which takes a batched tensor and has its networks leave images as they are."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from ctkd_lightning import CurriculumTemperatureCallback
from ctkd_lightning.methods import KD
from tests.detection.small import AsTheyAre, Detecting, made, scenes
from tests.quiet import quiet_trainer


def batched(samples):
    return {
        "image": torch.stack([image for image, _ in samples]),
        "bbox_xyxy": [target["boxes"] for _, target in samples],
        "label": [target["labels"] for _, target in samples],
    }


class LikeTorchgeo(Detecting):
    """Calls itself with a tensor, in a batch of the same names."""

    def __init__(self, model):
        super().__init__(model)
        self.model.transform = AsTheyAre()

    def forward(self, *args):
        return self.model(*args)

    def training_step(self, batch, batch_idx):
        pairs = zip(batch["bbox_xyxy"], batch["label"], strict=True)
        targets = [{"boxes": boxes, "labels": labels} for boxes, labels in pairs]
        return sum(self(batch["image"], targets).values())


def distilled(tmp_path, task, teacher):
    callback = CurriculumTemperatureCallback(teacher=teacher, method=KD())
    trainer = quiet_trainer(tmp_path, callbacks=[callback], max_steps=1)
    torch.manual_seed(0)
    trainer.fit(task, DataLoader(scenes(2), batch_size=2, collate_fn=batched))
    return trainer.logged_metrics["train/kd"]


@pytest.mark.parametrize("kind", ["rcnn", "retinanet", "fcos"])
def test_a_task_that_is_written_as_torchgeos(tmp_path, kind):
    as_it_is = made(kind, 2)
    as_it_is.transform = AsTheyAre()
    normalising = made(kind, 2, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    found = [distilled(tmp_path, LikeTorchgeo(made(kind, 1)), teacher) for teacher in (as_it_is, normalising)]
    assert found[0] == found[1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["faster-rcnn", "retinanet", "fcos"])
def test_torchgeos_own(tmp_path, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainers = pytest.importorskip("torchgeo.trainers")

    def task(backbone):
        return trainers.ObjectDetectionTask(model=kind, backbone=backbone, weights=None, num_classes=4)

    torch.manual_seed(0)
    student = task("resnet18")
    student.monitor = "train/kd"  # there is no validation here
    assert distilled(tmp_path, student, task("resnet34")) > 0
