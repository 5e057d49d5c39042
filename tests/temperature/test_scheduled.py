import math

import pytest
import torch

from ctkd_lightning import Distillation
from ctkd_lightning.errors import UserError
from ctkd_lightning.temperature import ScheduledTemperature
from tests.temperature import golden

CLOSED = {"scheduled": golden.one_for_both}


def path(temperature, fractions):
    found = []
    for fraction in fractions:
        temperature.set_progress(epoch=0, fraction=fraction)
        found.append(temperature(*golden.LOGITS).item())
    return found


def test_curves():
    quarters = (0, 0.25, 0.5, 0.75, 1)
    assert path(ScheduledTemperature("linear", start=8, end=2), quarters) == pytest.approx([8, 6.5, 5, 3.5, 2])
    cosine = [5 + 3 * math.cos(math.pi * x) for x in quarters]
    assert path(ScheduledTemperature("cosine", start=8, end=2), quarters) == pytest.approx(cosine)
    bounded = ScheduledTemperature("linear", start=8, end=0, least=3, most=6)
    assert path(bounded, quarters) == pytest.approx([6, 6, 4, 3, 3])
    assert path(ScheduledTemperature(lambda x: 1 + x * x), quarters) == pytest.approx([1, 1.0625, 1.25, 1.5625, 2])


def test_a_list_gives_each_of_its_values_an_equal_share():
    taus = [float(tau) for tau in range(1, 101)]
    assert path(ScheduledTemperature(taus), [epoch / 100 for epoch in range(100)]) == taus
    assert path(ScheduledTemperature([4, 2, 1]), (0, 0.32, 0.34, 0.66, 0.67, 1)) == [4, 4, 2, 2, 1, 1]


def test_the_dynamic_schedulers_numbers():
    """Of the authors' code, ten epochs of two steps, with the lag that it has on top of the curve."""
    temperature = ScheduledTemperature("cosine", start=4, end=0, least=2, most=4)
    tau, found = 4.0, []
    for epoch in range(1, 11):
        for _ in range(2):
            found.append(tau)
            tau = max(2.0, 0.9 * tau + 0.1 * path(temperature, [epoch / 10])[0])
    assert found == pytest.approx(golden.RULES["dts"], rel=1e-6)


def test_an_engine_drives_it():
    temperature = ScheduledTemperature("linear", start=8, end=2, epochs=4)
    distillation = Distillation(torch.nn.Linear(3, 4), torch.nn.Linear(3, 4), temperature=temperature)
    distillation.progress(2)
    assert temperature.tau.item() == 5
    distillation.progress(9)
    assert temperature.tau.item() == 2
    assert temperature.soften(*golden.LOGITS).fixed


def test_a_training_of_unknown_length():
    with pytest.raises(UserError, match="its length is not known: pass epochs="):
        ScheduledTemperature().set_progress(3, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"curve": "cosin"}, "there is no curve 'cosin' for ScheduledTemperature; did you mean cosine"),
        ({"curve": []}, r"a function or a list of τ, found \[\]"),
        ({"curve": [4, 0]}, "τ 2 of 2 must be a finite number above 0, found 0"),
        ({"curve": lambda x: float("nan")}, "curve at 0 of the training must be a finite number, found nan"),
        ({"least": 0}, "least must be a finite number above 0, found 0"),
        ({"most": 1, "least": 2}, "most must be a finite number from 2, found 1"),
        ({"epochs": 0}, "epochs must be a finite number above 0"),
        ({"start": None}, "start must be a finite number"),
    ],
)
def test_settings_that_are_none(settings, message):
    with pytest.raises(UserError, match=message):
        ScheduledTemperature(**settings)
