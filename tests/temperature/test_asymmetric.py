import pytest
import torch
import torch.nn.functional as F

from ctkd_lightning import Distillation
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.temperature import AsymmetricTemperature, LSKDTemperature
from tests.temperature import golden


def closed(s, t, tau):
    target = (torch.arange(s[..., 0].numel()) % 7).reshape(s.shape[:-1])  # as test_all gives it
    return torch.ones(()), torch.where(F.one_hot(target, 7) == 1, 4.0, 2.0), torch.ones(())


CLOSED = {"asymmetric": closed}


@pytest.mark.parametrize("case", [(4, 2, 1), (2, 1, 1), (4, 2, 2), (4, 4, 4)])
def test_numbers_of_the_authors_code(case):
    name = "ats_{}_{}_{}".format(*case)
    golden.check(name, AsymmetricTemperature(*case), loss="loss_as_divergence", step=Step(torch.arange(6)))


def test_without_a_target():
    logits = torch.zeros(3, 4)
    with pytest.raises(UserError, match=r"each of the positions \(3,\), found none: pass target="):
        AsymmetricTemperature().soften(logits, logits)
    with pytest.raises(UserError, match=r"found one of shape \(2,\)"):
        AsymmetricTemperature().soften(logits, logits, Step(torch.zeros(2, dtype=torch.int64)))


def test_the_engine_says_that_it_reads_the_target():
    networks = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)
    assert not Distillation(*networks).needs_target
    engine = Distillation(*networks, temperature=LSKDTemperature(AsymmetricTemperature()))
    assert engine.needs_target
    x, target = torch.randn(5, 3), torch.tensor([0, 1, -100, 2, 3])
    loss = engine(x, target=target)["kd"]
    kept = target >= 0
    torch.testing.assert_close(loss, engine(x[kept], target=target[kept])["kd"])


@pytest.mark.parametrize("name", ["tau_target", "tau_other", "tau_student"])
def test_settings_that_are_none(name):
    with pytest.raises(UserError, match=f"AsymmetricTemperature's {name} must be a finite number above 0, found 0"):
        AsymmetricTemperature(**{name: 0})
