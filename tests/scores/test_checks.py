"""What the first batch shows: also after a rehearsal, and without false alarms."""

import warnings

import pytest
import torch
from torch import nn

from ctkd_lightning import Distillation, DistillationModule
from ctkd_lightning._scores.checks import ends_in_probabilities
from ctkd_lightning.errors import UserError


def untrained():
    """Its scores lie close to its bias, 0.2."""
    layer = nn.Linear(6, 1)
    nn.init.normal_(layer.weight, std=1e-3)
    nn.init.constant_(layer.bias, 0.2)
    return layer


def test_an_untrained_student_is_not_taken_for_probabilities():
    distillation = Distillation(untrained(), nn.Linear(6, 1), task="binary")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distillation.build(torch.randn(24, 6))
        distillation(torch.randn(24, 6), target=torch.ones(24, 1))


@pytest.mark.parametrize("tail", [(), (nn.Flatten(0),), (nn.Unflatten(1, (1, 1)), nn.Flatten(1))])
def test_a_student_that_ends_in_a_sigmoid_is_warned_of(tail):
    student = nn.Sequential(untrained(), nn.Sigmoid(), *tail)
    distillation = Distillation(student, nn.Linear(6, 1), task="binary")
    with pytest.warns(UserWarning, match="the student's scores all lie between 0 and 1"):
        distillation(torch.randn(24, 6), target=torch.ones(24, 1))


def test_a_teacher_that_ends_in_a_sigmoid_is_warned_of():
    distillation = Distillation(untrained(), nn.Sequential(nn.Linear(6, 1), nn.Sigmoid()), task="binary")
    with pytest.warns(UserWarning, match="the teacher's scores all lie between 0 and 1"):
        distillation(torch.randn(24, 6), target=torch.ones(24, 1))


def test_the_operation_behind_scores():
    x = torch.randn(5, 3, requires_grad=True)
    assert ends_in_probabilities(x.sigmoid().double().squeeze().T.clamp(0.1, 0.9)[1:])
    assert ends_in_probabilities(x.softmax(dim=1)[:, 1])
    assert not ends_in_probabilities(2 * x.sigmoid())
    assert not ends_in_probabilities(x)
    assert not ends_in_probabilities(x.detach().sigmoid())


def test_the_rehearsal_does_not_stand_for_the_first_batch():
    """Several labels a sample under a softmax."""
    module = DistillationModule(nn.Linear(6, 4), nn.Linear(6, 4), example_image=torch.randn(2, 6))
    target = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    with pytest.raises(UserError, match="multi-hot"):
        module.training_step((torch.randn(2, 6), target), 0)
