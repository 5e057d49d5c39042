import pytest
import torch

from ctkd_lightning import Distillation
from ctkd_lightning.errors import UserError
from ctkd_lightning.temperature import EnergyTemperature
from tests.temperature import golden
from tests.temperature.settings import GIVEN


def closed(s, t, tau):
    energy = -4 * torch.logsumexp(t / 4, -1, keepdim=True)
    low, high = GIVEN["energy"]["low"], GIVEN["energy"]["high"]
    tau = torch.where(energy < low, 2.0, torch.where(energy > high, 6.0, 4.0)).double()
    assert len(tau.unique()) == 3  # else some of it is not tried
    return golden.one_for_both(s, t, tau)


CLOSED = {"energy": closed}
TEACHER = torch.tensor(golden.RULES["teacher_logits"], dtype=torch.float64)


@pytest.mark.parametrize(("case", "sure"), [("as_coded", "sharper"), ("as_in_the_abstract", "softer")])
def test_numbers_of_the_authors_code(case, sure):
    golden.check(f"energy_kd_{case}", EnergyTemperature(sure, low=-11.286, high=-10.311))


def test_thresholds_of_the_training_set():
    temperature = EnergyTemperature()
    temperature.fit(TEACHER.split(4), share=0.2)
    assert temperature.low == pytest.approx(-11.943727800213086, rel=1e-12)  # of the authors' rule
    assert temperature.high == pytest.approx(-10.2727994394481, rel=1e-12)


def test_masked_classes_have_no_energy():
    t = TEACHER.clone()
    t[:, -1] = -torch.inf
    temperature = EnergyTemperature(low=-11.286, high=-10.311)
    torch.testing.assert_close(temperature(t, t), temperature(t[:, :-1], t[:, :-1]))


def test_without_thresholds():
    with pytest.raises(UserError, match="EnergyTemperature has no thresholds: call fit"):
        EnergyTemperature()(TEACHER, TEACHER)
    engine = Distillation(torch.nn.Linear(3, 4), torch.nn.Linear(3, 4), temperature=EnergyTemperature())
    engine.build(torch.zeros(2, 3))  # which tries the methods: the thresholds may come later
    with pytest.raises(UserError, match="EnergyTemperature has no thresholds: call fit"):
        engine(torch.zeros(2, 3), target=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(UserError, match="found no samples"):
        EnergyTemperature().fit([torch.zeros(0, 3)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sure": "soft"}, "sure is 'soft'; did you mean softer"),
        ({"tau_least": 0}, "tau_least must be a finite number above 0"),
        ({"tau": 1}, "tau must be a finite number from 2, found 1"),
        ({"tau_most": 3}, "tau_most must be a finite number from 4, found 3"),
        ({"low": 1.0}, "has one threshold"),
        ({"low": 1.0, "high": 0.0}, "high must be a finite number from 1, found 0"),
    ],
)
def test_settings_that_are_none(settings, message):
    with pytest.raises(UserError, match=message):
        EnergyTemperature(**settings)
