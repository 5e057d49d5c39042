"""Detectors through the callback: an unedited module equals a loop written by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models.detection.anchor_utils import AnchorGenerator

from ctkd_lightning import (
    ConstantCurriculum,
    CurriculumTemperatureCallback,
    FixedTemperature,
    GlobalTemperature,
    InstanceTemperature,
)
from ctkd_lightning.detection import BoxKD
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import DKD, KD, FitNet
from tests.callbacks import foreign
from tests.detection.small import (
    CLASSES,
    KINDS,
    Detecting,
    body,
    collated,
    keypoint_rcnn,
    loader,
    made,
    mask_rcnn,
    scenes,
    with_parts,
)
from tests.quiet import quiet_trainer

TAU, WEIGHT, STEPS = 2.0, 3.0, 20


def both():
    return {"kd": KD(), "boxes": BoxKD()}


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


def last_losses(tmp_path, student, teacher, samples=None, **settings):
    of_trainer = settings.pop("trainer", {})
    callback = plug_in(teacher, **settings)
    task = Detecting(student, rate=settings.pop("rate", 0.01))
    batches = loader() if samples is None else DataLoader(samples, batch_size=2, collate_fn=collated)
    return fit(tmp_path, task, batches, callback, max_steps=1, **of_trainer).logged_metrics


@pytest.mark.parametrize("kind", [*KINDS, mask_rcnn, keypoint_rcnn])
def test_a_copy_of_the_student_has_nothing_to_say(tmp_path, kind):
    student = made(kind, 1)
    samples = [(image, with_parts(target)) for image, target in scenes(2)]
    assert last_losses(tmp_path, student, copy.deepcopy(student), samples)["train/kd"] == 0.0
    assert last_losses(tmp_path, student, made(kind, 2), samples)["train/kd"] > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_images_without_boxes(tmp_path, kind):
    student = made(kind, 1)
    for empty in ((0,), (0, 1)):
        found = last_losses(tmp_path, student, made(kind, 2), scenes(2, empty=empty), method=both())
        assert found["train/kd"] > 0
        assert found["train/boxes"].isfinite()
        assert all(p.isfinite().all() for p in student.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision(tmp_path, kind):
    student, teacher = made(kind, 1), made(kind, 2)
    found = {
        precision: last_losses(
            tmp_path, copy.deepcopy(student), teacher, method=both(), trainer={"precision": precision}
        )
        for precision in ("32-true", "bf16-mixed")
    }
    if kind == "rcnn":  # its proposals are sampled of slightly other boxes
        assert found["bf16-mixed"]["train/kd"] > 0
        return
    for name in ("train/kd", "train/boxes"):
        assert found["bf16-mixed"][name] == pytest.approx(found["32-true"][name].item(), rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_learned_temperature_moves(tmp_path, kind):
    temperature = GlobalTemperature(tau_init=0.5, tau_range=4.0, initial_value=0.0)
    callback = plug_in(made(kind, 2), temperature=temperature, curriculum=ConstantCurriculum(1.0), learning_rate=1.0)
    fit(tmp_path, Detecting(made(kind, 1)), loader(), callback, max_steps=4)
    assert abs(temperature(None, None).item() - 2.5) > 1e-5


def test_a_temperature_for_each_proposal_and_the_assigned_labels(tmp_path):
    methods = {"kd": KD(), "dkd": DKD(beta=1.0, warmup_epochs=0)}
    temperature = {"kd": InstanceTemperature(CLASSES), "dkd": FixedTemperature(1.0)}
    found = last_losses(tmp_path, made("rcnn", 1), made("rcnn", 2), method=methods, temperature=temperature)
    assert found["train/kd"] > 0
    assert found["train/dkd"] > 0
    assert "ctkd/temperature_std/temperature.kd" in found


@pytest.mark.parametrize("kind", KINDS)
def test_pyramid_levels(tmp_path, kind):
    layers = {"student_layers": {"stage1": "backbone.3"}, "teacher_layers": {"stage1": "backbone.3"}}
    found = last_losses(tmp_path, made(kind, 1), made(kind, 2), method={"kd": KD(), "fitnet": FitNet()}, **layers)
    assert found["train/fitnet"] > 0


class Wrapped(LightningModule):
    """Its own forward has the detector in it, which its step calls as self(...)."""

    def __init__(self, detector):
        super().__init__()
        self.inner = nn.ModuleDict({"detector": detector})

    def forward(self, images, targets=None):
        return self.inner["detector"](images, targets)

    def training_step(self, batch, batch_idx):
        return {"loss": sum(self(*batch).values())}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_through_wrappers(tmp_path):
    callback = CurriculumTemperatureCallback(teacher=Wrapped(made("rcnn", 2)))
    trainer = fit(tmp_path, Wrapped(made("rcnn", 1)), loader(), callback, max_steps=1)
    assert trainer.logged_metrics["train/kd"] > 0


@pytest.mark.parametrize("kind", ["rcnn", "retinanet"])
def test_compiled(tmp_path, kind):
    student, teacher = made(kind, 1), made(kind, 2)
    plain = last_losses(tmp_path, copy.deepcopy(student), teacher)["train/kd"]
    compiled = last_losses(tmp_path, torch.compile(student, backend="eager"), teacher)["train/kd"]
    assert compiled == pytest.approx(plain.item(), rel=1e-5)


class Opaque(nn.Module):
    """A teacher of which nothing is known by its children."""

    def __init__(self, detector):
        super().__init__()
        self.layers = nn.ModuleList([detector.backbone, detector.roi_heads])


def score(teacher, call):
    backbone, heads = teacher.layers
    levels = {"0": backbone(call.output.images)}
    pooled = heads.box_roi_pool(levels, call.output.places, call.output.sizes)
    return heads.box_predictor(heads.box_head(pooled))[0]


def test_a_teacher_that_is_not_known_by_its_children_is_asked(tmp_path):
    student, teacher = made("rcnn", 1), made("rcnn", 2)
    known = last_losses(tmp_path, copy.deepcopy(student), teacher)["train/kd"]
    asked = last_losses(tmp_path, student, Opaque(teacher), ask_teacher=score)["train/kd"]
    assert asked == known > 0


def test_hooks_are_gone_afterwards(tmp_path):
    student = made("rcnn", 1)
    last_losses(tmp_path, student, made("rcnn", 2))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())
    assert "forward" not in vars(student)


OTHER_ANCHORS = AnchorGenerator(((8, 16),), ((0.5, 1.0),))
OTHER_COUNT = AnchorGenerator(((8, 12, 14),), ((0.5, 1.0),))


@pytest.mark.parametrize(
    ("student", "teacher", "settings", "message"),
    [
        (made("rcnn", 1), made("rcnn", 2, classes=6), {}, "scores 4 classes and the teacher 6"),
        (made("ssd", 1), made("ssd", 2, classes=6), {}, "scores 4 classes and the teacher 6"),
        (made("retinanet", 1), made("retinanet", 2, anchor_generator=OTHER_ANCHORS), {}, "anchors have sizes"),
        (made("retinanet", 1), made("retinanet", 2, anchor_generator=OTHER_COUNT), {}, "anchors have sizes"),
        (made("retinanet", 1), made("fcos", 2), {}, "student is a RetinaNet and the teacher a FCOS"),
        (body(4), made("rcnn", 2), {}, "teacher is a detector, a R-CNN, and the student, Sequential"),
        (made("rcnn", 1), body(4), {}, "student is a detector, a R-CNN, and the teacher, Sequential"),
        (made("fcos", 1), made("fcos", 2), {"method": DKD(warmup_epochs=0)}, "each class against the rest"),
        (made("fcos", 1), made("fcos", 2), {"task": "multilabel", "mask": len}, "mask, task would have no effect"),
        (made("rcnn", 1), {"a": made("rcnn", 2), "b": made("rcnn", 3)}, {}, "several teachers are not fused"),
    ],
)
def test_what_does_not_go_together_is_told_before_the_training(tmp_path, student, teacher, settings, message):
    task = Detecting(student)
    task.on_train_start = pytest.fail
    with pytest.raises(UserError, match=message) as error:
        fit(tmp_path, task, loader(), plug_in(teacher, **settings))
    assert "\n" not in str(error.value)


def test_anchors_that_differ_in_their_number_are_told_at_the_first_batch(tmp_path):
    teacher = made("retinanet", 2)
    teacher.backbone[2].stride = (1, 1)
    with pytest.raises(UserError, match="256 anchors an image and the teacher 1024"):
        last_losses(tmp_path, made("retinanet", 1), teacher)


def test_boxes_need_detectors(tmp_path):
    callback = CurriculumTemperatureCallback(teacher=nn.Linear(4, 3), student="net", method=BoxKD())
    with pytest.raises(UserError, match="'boxes'"):
        fit(tmp_path, foreign.Plain(), foreign.loader(), callback)


def test_what_is_left_open_is_as_goes_with_detectors(tmp_path):
    """The whole of the student's losses, and τ from 1."""
    distil = CurriculumTemperatureCallback(teacher=made("rcnn", 2), student="model")
    with pytest.warns(UserWarning, match="the student is a detector, and no temperature is given"):
        fit(tmp_path, Detecting(made("rcnn", 1)), loader(), distil, max_steps=1)
    assert distil.ce_weight == 1.0
    assert distil.temperature.bounds == (0.5, 2.5)
    own = CurriculumTemperatureCallback(
        teacher=made("rcnn", 2), student="model", ce_weight=0.3, temperature=FixedTemperature(TAU)
    )
    fit(tmp_path, Detecting(made("rcnn", 1)), loader(), own, max_steps=1)
    assert own.ce_weight == 0.3
