import pytest
import torch

from ctkd_lightning import FixedTemperature
from ctkd_lightning.methods import kd_loss, normkd_loss
from ctkd_lightning.temperature import NormKDTemperature
from tests.temperature import golden


def closed(s, t, tau):
    tau_t = tau * t.std(-1, keepdim=True)
    return tau * s.std(-1, keepdim=True), tau_t, tau_t.square().squeeze(-1)


CLOSED = {"normkd": closed}


@pytest.mark.parametrize(
    ("case", "rule", "tau"), [("normkd_1", NormKDTemperature, 1.0), ("normkd_2", NormKDTemperature, 2.0)]
)
def test_numbers_of_the_authors_code(case, rule, tau):
    golden.check_rule(case, rule, tau)


def test_the_method_of_the_name_is_kd_with_the_rule():
    softening = NormKDTemperature(FixedTemperature(3.0).double()).soften(*golden.LOGITS)
    torch.testing.assert_close(kd_loss(*golden.LOGITS, softening), normkd_loss(*golden.LOGITS, 3.0))
