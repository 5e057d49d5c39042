import pytest
import torch

from ctkd_lightning import FixedTemperature
from ctkd_lightning.methods import kd_loss, ttm_loss, wttm_loss
from ctkd_lightning.temperature import TTMTemperature, WTTMTemperature
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
