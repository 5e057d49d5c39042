import pytest
import torch

from ctkd_lightning import Distillation, FixedTemperature
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import dkd_loss, kd_loss, lskd_loss
from ctkd_lightning.temperature import LSKDTemperature, NormKDTemperature, SphericalTemperature
from tests.temperature import golden


def closed(s, t, tau):
    return tau * s.std(-1, keepdim=True), tau * t.std(-1, keepdim=True), tau.square()


CLOSED = {"lskd": closed}


@pytest.mark.parametrize(("case", "rule", "tau"), [("lskd_2", LSKDTemperature, 2.0), ("lskd_4", LSKDTemperature, 4.0)])
def test_numbers_of_the_authors_code(case, rule, tau):
    golden.check_rule(case, rule, tau)


def test_the_method_of_the_name_is_kd_with_the_rule():
    softening = LSKDTemperature(FixedTemperature(3.0).double()).soften(*golden.LOGITS)
    torch.testing.assert_close(kd_loss(*golden.LOGITS, softening), lskd_loss(*golden.LOGITS, 3.0))


def test_with_another_method():
    s, t = golden.LOGITS
    target = torch.arange(len(s))
    softening = LSKDTemperature(FixedTemperature(2.0)).soften(s, t)
    standardized = [x / x.std(-1, keepdim=True) for x in (s, t)]
    expected = dkd_loss(*standardized, target, 2.0)
    torch.testing.assert_close(dkd_loss(s, t, target, softening), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", [LSKDTemperature, NormKDTemperature, SphericalTemperature])
@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_scores_of_their_own_are_refused(rule, task):
    """Two scores over their deviation are a sign: the student had a loss, and no gradient."""
    networks = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)
    with pytest.raises(UserError, match=f"{rule.__name__} compares the scores of classes .* found task='{task}'"):
        Distillation(*networks, temperature=rule(), task=task)
