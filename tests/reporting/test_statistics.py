import math

import numpy as np
import pytest
from scipy import stats

from ctkd_lightning.reporting.statistics import Difference, Spread, paired_difference, spread

A, B = {1: 92.1, 2: 91.4, 3: 93.0, 4: 91.9}, {1: 91.0, 2: 91.2, 3: 91.5, 4: 92.0}


def test_mean_and_deviation_are_scipys():
    values = list(A.values())
    found = spread(values)
    assert (found.mean, found.deviation, found.n) == pytest.approx((np.mean(values), stats.tstd(values), 4))
    assert spread([3.0]) == Spread(3.0, None, 1)


def test_the_interval_is_that_of_students_t():
    differences = np.subtract(list(A.values()), list(B.values()))
    expected = stats.t.interval(0.95, 3, differences.mean(), stats.sem(differences))
    found = paired_difference(A, B)
    assert found.mean == pytest.approx(differences.mean())
    assert found.interval == pytest.approx(expected)
    assert found.n == 4
    # by hand, of two pairs: the 97.5 % point of t with one degree of freedom is tan(0.475 π)
    by_hand = paired_difference({1: 3.0, 2: 5.0}, {1: 0.0, 2: 0.0})
    half = math.tan(0.475 * math.pi) * math.sqrt(2) / math.sqrt(2)
    assert by_hand.interval == pytest.approx((4 - half, 4 + half))


def test_only_seeds_that_both_have():
    assert paired_difference(A, {2: 90.0, 9: 0.0}) == Difference(pytest.approx(1.4), None, 1)
    assert paired_difference(A, {9: 90.0}) is None


def test_no_interval_where_nothing_varies():
    found = paired_difference({1: 0.1 + 0.2, 2: 1.3}, {1: 0.0, 2: 1.0})
    assert found == Difference(pytest.approx(0.3), None, 2)
    assert not found.above_zero


@pytest.mark.parametrize(("low", "above"), [(0.1, True), (0.0, False), (-0.1, False)])
def test_above_zero(low, above):
    assert Difference(0.5, (low, 1.0), 3).above_zero is above
