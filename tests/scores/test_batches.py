"""Targets and scores whose shape or values say that they are not what they are taken for."""

import dataclasses
import warnings
from collections import namedtuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ctkd_lightning import CurriculumTemperatureCallback, Distillation, DistillationModule, GlobalTemperature, Step
from ctkd_lightning._scores.batches import find_targets, read_batch, tensors_of
from ctkd_lightning._scores.scores import Scores
from ctkd_lightning.callbacks.plugin.distiller import Distiller, Pickers
from ctkd_lightning.callbacks.plugin.target import TargetFinder
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import DKD, KD
from tests.quiet import quiet_trainer


def engine(method=None, **settings):
    return Distillation(teacher=nn.Linear(1, 1), method=method, **settings)


def losses(student, teacher, target, **settings):
    return engine(**settings).losses(student.requires_grad_(), teacher, Step(target))


@pytest.mark.parametrize("side", ["teacher", "target"])
def test_labels_in_another_order_of_dimensions_are_told(side):
    first, last = torch.rand(2, 3, 4, 5), torch.rand(2, 4, 5, 3)
    teacher, target = (last, first) if side == "teacher" else (first, last)
    with pytest.raises(UserError, match=r"\(2, 4, 5, 3\)"):
        losses(torch.randn(2, 3, 4, 5), teacher, target, task="multilabel")


@pytest.mark.parametrize(
    ("target", "settings", "told"),
    [
        (torch.tensor([0, 1, 255, 2]), {}, "from 0 to 255, and those of these scores go from 0 to 2"),
        (torch.tensor([0, -1, 1, 2]), {}, "from -1 to 2"),
        (torch.tensor([0, 3, 1, 2]), {"method": DKD()}, "from 0 to 3"),
        (torch.full((4, 3), 2), {"task": "multilabel"}, "from 2 to 2, and those of these scores go from 0 to 1"),
        (torch.full((4, 3), 0.7), {}, "do not sum to one"),
    ],
)
def test_targets_that_cannot_be_are_told(target, settings, told):
    with pytest.raises(UserError, match=told):
        losses(torch.randn(4, 3), torch.randn(4, 3), target, **settings)


def test_an_empty_batch_has_no_loss():
    found = losses(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    assert all(float(value.detach()) == 0 for value in found.values())


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_teacher_that_ends_in_a_sigmoid_is_told(task):
    teacher = torch.sigmoid(3 * torch.randn(8, 3))
    with pytest.warns(UserWarning, match="the teacher's scores all lie between 0 and 1"):
        losses(torch.randn(8, 3), teacher, torch.zeros((8, 3) if task == "multilabel" else 8).long(), task=task)


def test_means_are_over_the_steps_that_had_the_loss():
    distillation = Distillation(nn.Linear(4, 3), nn.Linear(4, 3))
    expected = distillation(torch.ones(2, 4), target=torch.tensor([0, 1]))["ce"]
    distillation(torch.ones(2, 4))
    torch.testing.assert_close(distillation.collect()["ce"], expected.detach())


def test_a_temperature_of_a_method_without_weight_is_not_trained():
    temperatures = {"kd": GlobalTemperature(), "dkd": GlobalTemperature()}
    distillation = engine({"kd": KD(), "dkd": DKD(weight=0.0)}, temperature=temperatures)
    assert [name for name, p in distillation.named_parameters() if p.requires_grad] == ["temperature.kd.value"]


@dataclasses.dataclass
class Kept:
    image: Tensor
    label: Tensor


def test_batches_may_be_dataclasses():
    batch = Kept(torch.zeros(2, 4), torch.ones(2))
    assert read_batch(batch).inputs is batch.image
    assert find_targets(batch) == [batch.label]
    assert len(list(tensors_of(batch))) == 2


def test_numbers_beside_one_hot_labels_are_not_taken_for_classes():
    x, lengths = torch.zeros(4, 6), torch.tensor([0, 1, 2, 2])
    one_hot = torch.eye(3)[[0, 1, 2, 0]]
    scores = torch.randn(4, 3)

    def found(batch):
        return TargetFinder(Scores(), -100, masked=True).find(batch, scores)

    assert found((x, one_hot, lengths)) is None
    assert found((x, lengths)) is lengths
    assert found((x, torch.rand(4), lengths)) is lengths


def test_numbers_that_are_no_classes_are_told_at_the_first_batch():
    distiller = Distiller(engine(DKD()), Pickers(), lambda: None)
    call = namedtuple("Call", "arguments output tap")
    kept = namedtuple("Kept", "args kwargs")
    distiller.engine.ask = lambda *_: distiller._output(call(None, torch.randn(4, 3), None))
    calls = [call(kept((), {}), torch.randn(4, 3, requires_grad=True), None)]
    with (
        pytest.warns(UserWarning, match="not all of them are from 0 to 2"),
        pytest.raises(UserError, match="DKD needs the class indices"),
    ):
        distiller(calls, (torch.zeros(4, 6), torch.arange(10, 14)))
    with pytest.raises(UserError, match="from 10 to 13"):
        losses(torch.randn(4, 3), torch.randn(4, 3), torch.arange(10, 14))


def test_what_the_mask_leaves_out_is_in_no_metric(tmp_path):
    x, y = torch.randn(4, 5, 6), torch.randint(3, (4, 5))
    lengths = torch.tensor([2, 5, 1, 3])
    loader = DataLoader(list(zip(x, y, lengths, strict=True)), batch_size=4)
    ignored = y.masked_fill(torch.arange(5) >= lengths[:, None], -100)
    other = DataLoader(list(zip(x, ignored, lengths, strict=True)), batch_size=4)

    def inside(batch):
        return torch.arange(5) < batch[2][:, None]

    student, teacher = nn.Linear(6, 3), nn.Linear(6, 3)
    trainer = quiet_trainer(tmp_path)
    found = trainer.validate(DistillationModule(teacher, student, mask=inside), loader, verbose=False)
    expected = trainer.validate(DistillationModule(teacher, student), other, verbose=False)
    assert found == expected


def test_a_training_without_labels_is_told(tmp_path):
    module = DistillationModule(nn.Linear(4, 3), nn.Linear(4, 3))
    loader = DataLoader([(torch.randn(4), {"labels": 1}) for _ in range(4)], batch_size=2)
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=[CurriculumTemperatureCallback()])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        trainer.fit(module, loader)
    assert sum("a training batch has no target" in str(warning.message) for warning in seen) == 1
