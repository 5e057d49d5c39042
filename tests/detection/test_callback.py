"""Detectors through the callback: an unedited module equals a loop written by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F

from ctkd_lightning import CurriculumTemperatureCallback, FixedTemperature
from ctkd_lightning.methods import KD
from tests.detection.small import Detecting, collated, loader, made, scenes
from tests.quiet import quiet_trainer

TAU, WEIGHT, STEPS = 2.0, 3.0, 20


def fit(tmp_path, task, batches, callback, **settings):
    trainer = quiet_trainer(tmp_path, callbacks=[callback], **{"max_steps": STEPS, "max_epochs": STEPS, **settings})
    torch.manual_seed(3)  # the R-CNNs sample their proposals
    trainer.fit(task, batches)
    return trainer


def plug_in(teacher, **settings):
    settings = {"method": KD(weight=WEIGHT), "ce_weight": 1.0, "temperature": FixedTemperature(TAU), **settings}
    return CurriculumTemperatureCallback(teacher=teacher, student="model", **settings)


def rcnn_term(student, teacher, images, targets):
    """Its step's loss, and KD of the box heads: the student's parts called one after the other, as its forward does."""
    pictures, moved = student.transform(images, targets)
    features = {"0": student.backbone(pictures.tensors)}
    proposals, losses = student.rpn(pictures, features, moved)
    heads = student.roi_heads
    proposals, _, labels, regression = heads.select_training_samples(proposals, moved)
    scores, boxes = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals, pictures.image_sizes)))
    labels = torch.cat(labels)
    positive = (labels > 0).nonzero().squeeze(1)
    found = boxes.reshape(len(boxes), -1, 4)[positive, labels[positive]]
    box_loss = F.smooth_l1_loss(found, torch.cat(regression)[positive], beta=1 / 9, reduction="sum") / len(labels)
    loss = F.cross_entropy(scores, labels) + box_loss + sum(losses.values())
    with torch.no_grad():
        heads = teacher.roi_heads
        levels = {"0": teacher.backbone(pictures.tensors)}
        guide, _ = heads.box_predictor(heads.box_head(heads.box_roi_pool(levels, proposals, pictures.image_sizes)))
    p, q = (guide / TAU).softmax(dim=1), (scores / TAU).log_softmax(dim=1)
    return loss, TAU**2 * F.kl_div(q, p, reduction="batchmean")


def retinanet_term(student, teacher, images, targets):
    pictures, _ = student.transform(images, targets)
    losses = student(images, targets)
    scores = student.head([student.backbone(pictures.tensors)])["cls_logits"]
    with torch.no_grad():
        guide = teacher.head([teacher.backbone(pictures.tensors)])["cls_logits"]
    p, q = (guide / TAU).sigmoid(), (scores / TAU).sigmoid()
    divergence = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(dim=-1)
    weight = guide.sigmoid().amax(dim=-1)
    return sum(losses.values()), TAU**2 * (weight * divergence).sum() / weight.sum()


@pytest.mark.parametrize(("kind", "term"), [("rcnn", rcnn_term), ("retinanet", retinanet_term)])
def test_the_weights_after_20_steps_are_those_of_a_loop_by_hand(tmp_path, kind, term):
    student, teacher = made(kind, 1).double(), made(kind, 2, channels=6).double()
    alone = copy.deepcopy(student).train()
    task = Detecting(student)
    fit(tmp_path, task, loader(dtype=torch.float64), plug_in(teacher))

    optimizer = torch.optim.SGD(alone.parameters(), lr=0.01, momentum=0.9)
    samples, step = scenes(dtype=torch.float64), 0
    torch.manual_seed(3)
    for step in range(STEPS):
        first = 2 * (step % 4)
        if first == 0:
            next(iter(loader()))  # a loader draws a seed at each epoch
        loss, kd = term(alone, teacher, *collated(samples[first : first + 2]))
        optimizer.zero_grad()
        (loss + WEIGHT * kd).backward()
        optimizer.step()
    for name, value in alone.named_parameters():
        torch.testing.assert_close(student.get_parameter(name), value, rtol=1e-9, atol=1e-11)
