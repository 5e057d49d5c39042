import pytest

from ctkd_lightning.reporting.statistics import Difference
from ctkd_lightning.reporting.tables import Cell, count, difference, mean_and_deviation, number, seconds


def test_numbers():
    assert (number(91.236), number(None)) == ("91.24", "–")
    assert (count(1234567.0), count(None)) == ("1,234,567", "–")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (90061, "25 h 01 min"),
    ],
)
def test_durations(value, text):
    assert seconds(value) == text


def test_mean_and_deviation():
    assert mean_and_deviation([90.0, 92.0]) == "91.00 ± 1.41"
    assert mean_and_deviation([90.0]) == "90.00"
    assert mean_and_deviation([]) == "–"


def test_differences_say_why_there_is_no_interval():
    assert difference(Difference(0.5, (-0.2, 1.2), 3)) == Cell("+0.50", "95 %: −0.20 to +1.20")
    assert "one seed" in difference(Difference(-0.5, None, 1)).note
    assert "the same for each seed" in difference(Difference(0.0, None, 2)).note
