import math

import pytest
import torch
from torch import nn

from ctkd_lightning import Distillation, GlobalTemperature
from ctkd_lightning._default_temperature import default_temperature


def language_model() -> nn.Module:
    return nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50))


def test_a_vocabulary_has_a_range_of_its_own_and_says_so():
    with pytest.warns(UserWarning, match=r"vocabulary of 50 tokens.*\[1, 5\] from 1.2"):
        found = default_temperature(language_model())
    assert found.bounds == (1, 5)
    assert float(found(None, None)) == pytest.approx(1.2)  # type: ignore[arg-type]


@pytest.mark.parametrize("student", [None, nn.Linear(4, 10)])
def test_classes_have_the_papers(student, recwarn):
    found = default_temperature(student)
    assert not recwarn
    assert found.bounds == (1, 21)
    assert float(found(None, None)) == pytest.approx(1 + 20 / (1 + math.exp(-1)))  # type: ignore[arg-type]


def test_the_engine_takes_it_unless_there_is_one():
    with pytest.warns(UserWarning, match="vocabulary of 50"):
        assert Distillation(language_model(), language_model()).temperature.bounds == (1, 5)
    own = GlobalTemperature()
    assert Distillation(language_model(), language_model(), temperature=own).temperature is own


def test_the_gradient_of_the_start_is_the_closed_form():
    temperature = GlobalTemperature.for_tokens(objective="cooperative")
    temperature.lambda_.fill_(1.0)
    temperature(torch.zeros(1, 2), torch.zeros(1, 2)).backward()
    assert float(temperature.value.grad) == pytest.approx(4 * 0.05 * 0.95)  # dτ/dp = range · σ(p)(1 − σ(p))


def test_a_detector_starts_at_1():
    with pytest.warns(UserWarning, match=r"is a detector, and no temperature is given.*\[0.5, 2.5\] from 1"):
        found = default_temperature(nn.Linear(2, 2), detects=True)
    assert found.bounds == (0.5, 2.5)
    assert float(found(None, None)) == pytest.approx(1.0)  # type: ignore[arg-type]
