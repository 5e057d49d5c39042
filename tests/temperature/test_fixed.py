import pytest

from ctkd_lightning import FixedTemperature
from ctkd_lightning.errors import UserError
from ctkd_lightning.temperature import LSKDTemperature
from tests.temperature import golden

CLOSED = {"fixed": golden.one_for_both}


def test_is_a_constant_and_says_so():
    temperature = FixedTemperature(2.5)
    assert temperature(*golden.LOGITS).item() == 2.5
    assert temperature.soften(*golden.LOGITS).fixed
    assert not LSKDTemperature(temperature).soften(*golden.LOGITS).fixed
    assert not list(temperature.parameters())


@pytest.mark.parametrize("tau", [0.0, "4"])
def test_bad_input(tau):
    with pytest.raises(UserError, match=f"temperature's tau must be a finite number above 0, found {tau!r}"):
        FixedTemperature(tau)
