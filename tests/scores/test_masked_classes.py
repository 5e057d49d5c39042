"""Classes that both networks mask: the losses are those of the classes that are left."""

import pytest
import torch
from torch import nn

from ctkd_lightning import Distillation, FixedTemperature, InstanceTemperature
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import DIST, DKD, KD, LSKD, TTM, WTTM, NormKD
from ctkd_lightning.methods._chunked_kd import CHUNK


class Given(nn.Module):
    """Gives what it has."""

    def __init__(self, scores):
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, x):
        return self.scores


def losses(method, temperature, student, teacher):
    distillation = Distillation(Given(student), Given(teacher), {"term": method}, temperature)
    found = distillation(None, target=torch.tensor([0, 2, 1, 0]))
    found["loss"].backward()
    return found["term"].detach(), distillation.student.scores.grad[:, :3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("fill", ["least", -float("inf"), -1e4])
@pytest.mark.parametrize("tau", [0.25, 4.0])
@pytest.mark.parametrize("method", [KD, DKD, TTM, WTTM, LSKD, NormKD], ids=lambda m: m.__name__)
def test_masked_classes_are_as_if_they_were_not_there(method, tau, fill, dtype):
    student, teacher = torch.randn(2, 4, 3, generator=torch.manual_seed(0)).to(dtype)
    right = losses(method(), FixedTemperature(tau), student, teacher)
    masks = torch.full((4, 2), torch.finfo(dtype).min if fill == "least" else fill, dtype=dtype)
    found = losses(method(), FixedTemperature(tau), *(torch.cat((x, masks), dim=1) for x in (student, teacher)))
    torch.testing.assert_close(found, right)


@pytest.mark.parametrize("method", [KD, DIST])
def test_masked_classes_leave_a_learned_temperature_its_gradient(method):
    temperature = InstanceTemperature(5, tau_init=0.1)
    temperature.lambda_.fill_(1)
    student, teacher = (torch.randn(4, 5).masked_fill(torch.arange(5) > 2, -float("inf")) for _ in range(2))
    losses(method(), temperature, student, teacher)
    assert all(parameter.grad.isfinite().all() for parameter in temperature.parameters())


def test_classes_that_the_student_alone_masks_are_told():
    student = torch.randn(4, 5).masked_fill(torch.arange(5) > 2, torch.finfo().min)
    with pytest.raises(UserError, match="the student masks classes"):
        losses(KD(), FixedTemperature(), student, torch.randn(4, 5))


def test_large_masked_logits_are_softened_in_pieces(monkeypatch):
    monkeypatch.setitem(CHUNK, "cpu", 4)
    test_masked_classes_are_as_if_they_were_not_there(KD, 0.25, "least", torch.float32)
