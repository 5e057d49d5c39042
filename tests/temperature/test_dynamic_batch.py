from dataclasses import replace

import pytest
import torch

from ctkd_lightning import Distillation
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods import kd_loss
from ctkd_lightning.temperature import DynamicBatchTemperature
from tests.temperature import golden


def closed(s, t, tau):
    s, t = (x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + 1e-4) for x in (s, t))
    weight = (1 - torch.linalg.vecdot(s, t)).square().unsqueeze(-1)
    tau = (4 + weight.mean() - weight).clamp(min=1)
    return tau, tau, tau.square().squeeze(-1)


CLOSED = {"dynamic_batch": closed}


class WithoutFactor(DynamicBatchTemperature):
    """As the third party has it, whose gradients are the numbers."""

    def soften(self, student_logits, teacher_logits, step=None):
        found = super().soften(student_logits, teacher_logits, step)
        return replace(found, scale=torch.ones(()).double(), tau=None)


@pytest.mark.parametrize("weights", ["flsw", "cwsm"])
def test_numbers_of_a_third_partys_code(weights):
    name = f"dtd_{weights}"
    golden.check(name, WithoutFactor(weights, beta=1.0, gamma=2.0), loss="loss_as_divergence")
    s, t = (torch.tensor(golden.RULES[f"{who}_logits"], dtype=torch.float64) for who in ("student", "teacher"))
    loss = kd_loss(s, t, DynamicBatchTemperature(weights).soften(s, t))
    assert loss.item() == pytest.approx(golden.RULES["cases"][name]["loss_as_divergence_with_tau_i_squared"], rel=1e-6)


def test_the_published_rule_gives_a_negative_temperature_and_this_one_its_bound():
    s = torch.zeros(8, 100)
    s[1:, 0] = 1000.0  # one unsure among sure ones
    unsure, sure = 1 / 0.011, 1 / 1.001
    mean = (unsure + 7 * sure) / 8
    assert 4 + mean - unsure == pytest.approx(-74.67132867132868)  # in TextBrewer
    tau = DynamicBatchTemperature("cwsm", least=0.5)(s, s)
    assert tau.flatten().tolist() == pytest.approx([0.5] + 7 * [4 + mean - sure])


def test_what_a_mask_leaves_out_does_not_count():
    s, t = golden.LOGITS
    mask = torch.arange(len(s)) < 3
    found = DynamicBatchTemperature()(s, t, Step(mask=mask))
    torch.testing.assert_close(found[:3], DynamicBatchTemperature()(s[:3], t[:3]))


@pytest.mark.parametrize("weights", ["flsw", "cwsm"])
def test_a_batch_of_none_and_logits_of_zero(weights):
    for logits in (torch.zeros(0, 5), torch.zeros(3, 5)):
        assert (DynamicBatchTemperature(weights)(logits, logits) == 4).all()


def test_scores_of_their_own():
    networks = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)
    with pytest.raises(UserError, match="DynamicBatchTemperature compares the scores of classes"):
        Distillation(*networks, temperature=DynamicBatchTemperature("flsw"), task="multilabel")
    engine = Distillation(*networks, temperature=DynamicBatchTemperature("cwsm"), task="multilabel")
    assert engine(torch.randn(2, 3), target=torch.ones(2, 4))["loss"].isfinite()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "flws"}, "there are no weights 'flws'; did you mean flsw"),
        ({"least": 0}, "least must be a finite number above 0"),
        ({"tau": 0.5}, "tau must be a finite number from 1, found 0.5"),
        ({"beta": -1}, "beta must be a finite number from 0"),
        ({"gamma": 0}, "gamma must be a finite number above 0"),
    ],
)
def test_settings_that_are_none(settings, message):
    with pytest.raises(UserError, match=message):
        DynamicBatchTemperature(**settings)
