import pytest
import torch

from ctkd_lightning import FixedTemperature
from ctkd_lightning.methods import kd_loss, ttm_loss, wttm_loss
from ctkd_lightning.temperature import DynamicTemperature, PerClassTemperature, TTMTemperature, WTTMTemperature
from tests.temperature import golden


def teacher_alone(s, t, tau):
    return torch.ones(()), tau, torch.ones(())


def weighted(s, t, tau):
    return torch.ones(()), tau, t.softmax(-1).pow(1 / tau).sum(-1)


CLOSED = {"ttm": teacher_alone, "wttm": weighted}


@pytest.mark.parametrize(
    ("case", "rule", "tau"),
    [
        ("ttm_gamma0.1", TTMTemperature, 10.0),
        ("ttm_gamma0.25", TTMTemperature, 4.0),
        ("wttm_gamma0.2", WTTMTemperature, 5.0),
        ("wttm_gamma0.25", WTTMTemperature, 4.0),
    ],
)
def test_numbers_of_the_authors_code(case, rule, tau):
    golden.check_rule(case, rule, tau)


@pytest.mark.parametrize(("rule", "loss"), [(TTMTemperature, ttm_loss), (WTTMTemperature, wttm_loss)])
def test_the_method_of_the_name_is_kd_with_the_rule(rule, loss):
    softening = rule(FixedTemperature(3.0).double()).soften(*golden.LOGITS)
    torch.testing.assert_close(kd_loss(*golden.LOGITS, softening), loss(*golden.LOGITS, 3.0))


@pytest.mark.parametrize("rule", [TTMTemperature, WTTMTemperature, DynamicTemperature])
def test_a_shift_of_the_base_is_kept(rule):
    s, t = golden.LOGITS
    temperature = rule(PerClassTemperature(s.shape[-1]).double())
    with torch.no_grad():
        temperature.base.of_class.copy_(torch.linspace(-2, 2, s.shape[-1]))
    softening, base = temperature.soften(s, t), temperature.base.soften(s, t)
    torch.testing.assert_close(softening.teacher_shift, base.teacher_shift)
    if rule is DynamicTemperature:
        torch.testing.assert_close(softening.student_shift, base.student_shift)
    else:  # at tau 1 a shift says nothing
        losses = [kd_loss(s, x, temperature.soften(s, x)) for x in (t, t + 10)]
        torch.testing.assert_close(*losses)
