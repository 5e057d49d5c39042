import math
from statistics import mean, stdev

import numpy as np
import pytest

from ctkd_lightning.reporting.figures._words import class_name, known_mean, seed_means, spread


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


def test_a_class_without_a_name():
    assert class_name(["cat"], 0) == "cat"
    assert class_name(["cat"], 1) == "1"


def test_a_seed_that_ran_twice_is_one_value():
    found = seed_means([(2, [5.0, np.nan]), (1, [1.0, 7.0]), (1, [3.0, np.nan])])
    assert np.stack(found) == pytest.approx(np.array([[2.0, 7.0], [5.0, np.nan]]), nan_ok=True)
    assert seed_means([(1, 1.0), (1, 2.0), (2, 4.0)]) == [1.5, 4.0]


@pytest.mark.filterwarnings("error")
def test_means_of_what_is_known():
    table = np.array([[1.0, np.nan, np.nan], [3.0, 2.0, np.nan]])
    assert known_mean(table) == pytest.approx([2, 2, np.nan], nan_ok=True)
