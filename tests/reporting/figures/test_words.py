import math
from statistics import mean, stdev

import pytest

from ctkd_lightning.reporting.figures._words import counted, spread


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 4.0], f"{mean([1, 2, 4]):.2f} ± {stdev([1, 2, 4]):.2f}"),
        ([1.5], "1.50"),
        ([2.0, 2.0], "2.00"),
        ([1.5, math.nan], "1.50"),
        ([], "–"),
    ],
)
def test_spread(values, expected):
    assert spread(values) == expected


def test_counted():
    assert counted(1, "run", "runs") == "1 run"
    assert counted(2, "run", "runs") == "2 runs"
