import math
import sys
from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from ctkd_lightning.data import DigitScenes
from ctkd_lightning.errors import UserError
from ctkd_lightning.models import create_detector
from ctkd_lightning.modules import DetectionModule
from ctkd_lightning.schedule import PerStep, step_decay_with_warmup


class Oracle(nn.Module):
    """Gives losses that are known, and finds what it is told to."""

    def __init__(self, found=()):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.found = found

    def forward(self, images, objects=None):
        if not self.training:
            return [self.found] * len(images)
        return {"first": self.scale * len(images), "second": self.scale * sum(len(each["boxes"]) for each in objects)}


def objects(*boxes):
    return {"boxes": torch.tensor(boxes).reshape(-1, 4).float(), "labels": torch.ones(len(boxes), dtype=torch.int64)}


def trainer(**settings):
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return Trainer(accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, **dict.fromkeys(off, False), **settings)


def batches(*batch):
    return torch.utils.data.DataLoader(list(batch), batch_size=None, collate_fn=lambda each: each)


BATCH = ([torch.zeros(3, 8, 8)] * 2, [objects([0, 0, 4, 4], [4, 4, 8, 8]), objects()])


def test_the_loss_is_the_sum_of_the_detectors_and_each_is_logged():
    module = DetectionModule(Oracle(), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    run = trainer()
    run.fit(module, batches(BATCH))
    assert {name: float(value) for name, value in run.callback_metrics.items()} == {
        "train/loss": 4.0, "train/first": 2.0, "train/second": 2.0,
    }  # fmt: skip


def test_training_equals_a_loop():
    data = DigitScenes(train_size=4, val_size=1, test_size=1, batch_size=2)
    make = partial(create_detector, "faster_rcnn_small", 10, channels=(4, 4, 4), convolutions=1, box_features=8)
    torch.manual_seed(0)
    loop = make()
    torch.manual_seed(0)
    module = DetectionModule(make(), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    torch.manual_seed(1)
    trainer(limit_val_batches=0).fit(module, data.train_dataloader())
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(loop.train().parameters(), lr=0.1)
    for images, targets in DigitScenes(train_size=4, val_size=1, test_size=1, batch_size=2).train_dataloader():
        optimizer.zero_grad()
        sum(loop(images, targets).values()).backward()
        optimizer.step()
    for name, value in module.network.state_dict().items():
        assert torch.equal(value, loop.state_dict()[name]), name


FOUND = {"scores": torch.tensor([0.9, 0.8]), "labels": torch.tensor([1, 1])}


@pytest.mark.parametrize(
    ("boxes", "map", "ap50"),
    [
        ([[0, 0, 4, 4], [4, 4, 8, 8]], 100.0, 100.0),
        ([[0, 0, 4, 4], [20, 20, 24, 24]], 100 * 51 / 101, 100 * 51 / 101),  # half: recall of 0 to 0.5 of 101 points
        ([[0, 0, 4, 3], [4, 4, 8, 7]], 60.0, 100.0),  # an IoU of 0.75: the first 6 of 10 thresholds
    ],
)
def test_average_precision_of_boxes_that_are_known(boxes, map, ap50):
    found = {**FOUND, "boxes": torch.tensor(boxes).float()}
    run = trainer()
    run.test(DetectionModule(Oracle(found)), batches(([BATCH[0][0]], [BATCH[1][0]])), verbose=False)
    assert float(run.callback_metrics["test/map"]) == pytest.approx(map, abs=1e-4)
    assert float(run.callback_metrics["test/ap50"]) == pytest.approx(ap50, abs=1e-4)


def test_without_any_object_there_is_no_precision():
    found = {**FOUND, "boxes": torch.tensor([[0, 0, 4, 4], [4, 4, 8, 8]]).float()}
    run = trainer()
    run.test(DetectionModule(Oracle(found)), batches(([BATCH[0][0]], [objects()])), verbose=False)
    assert math.isnan(run.callback_metrics["test/map"])


def test_what_is_found_in_a_crowd_does_not_count():
    crowd = {**objects([0, 0, 4, 4], [4, 4, 8, 8]), "iscrowd": torch.tensor([0, 1])}
    found = {**FOUND, "boxes": torch.tensor([[4, 4, 6, 6], [0, 0, 4, 4]]).float()}
    run = trainer()
    run.test(DetectionModule(Oracle(found)), batches(([BATCH[0][0]], [crowd])), verbose=False)
    assert float(run.callback_metrics["test/map"]) == pytest.approx(100.0)


def test_a_schedule_in_steps_is_stepped_in_steps():
    schedule = partial(step_decay_with_warmup, max_steps=6, warmup_steps=0)
    module = DetectionModule(Oracle(), lambda parameters: torch.optim.SGD(parameters, lr=1e-3), schedule)
    run = trainer()
    run.fit(module, batches(*[BATCH] * 5))
    assert isinstance(run.lr_scheduler_configs[0].scheduler, PerStep)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-5)  # divided after 4 and 5 of 6 steps


@pytest.mark.parametrize("batch", [torch.zeros(2, 3), (torch.zeros(2, 3, 8, 8), torch.zeros(2)), ([], []), None])
def test_another_batch_is_one_line(batch):
    with pytest.raises(UserError, match="a list of images and a list of dictionaries"):
        DetectionModule(Oracle()).training_step(batch, 0)


class GivesImages(nn.Module):
    def forward(self, images, objects=None):
        return images


def test_a_detector_without_losses_is_one_line():
    with pytest.raises(UserError, match="GivesImages must give its losses by name in training"):
        DetectionModule(GivesImages()).training_step(BATCH, 0)


def test_without_pycocotools(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setattr("torchmetrics.detection.mean_ap._PYCOCOTOOLS_AVAILABLE", False)
    monkeypatch.setattr("torchmetrics.detection.mean_ap._FASTER_COCO_EVAL_AVAILABLE", False)
    with pytest.raises(UserError, match=r"pip install 'ctkd-lightning\[detection\]'"):
        DetectionModule(Oracle())
