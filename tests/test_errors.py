import math
import re

import numpy as np
import pytest

from ctkd_lightning.errors import UserError, check_number, suggest


def test_suggestions_put_near_names_first():
    assert suggest("kdd", ["pkt", "kd", "sp"]) == "did you mean kd? Valid: kd, pkt, sp"
    assert suggest("zzz", ["pkt", "kd"]) == "Valid: kd, pkt"
    assert suggest("kdd", ["kd", "sp"], "See the docs") == "did you mean kd? See the docs"
    assert suggest("zzz", ["kd", "sp"], "See the docs") == "See the docs"


def test_is_a_value_error():
    assert issubclass(UserError, ValueError)


@pytest.mark.parametrize("value", ["1", None, True, [1.0], math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number(value):
    with pytest.raises(UserError, match=re.escape(f"AT's p must be a finite number, found {value!r}")):
        check_number("AT's p", value)


@pytest.mark.parametrize(
    ("value", "limits", "expected"),
    [
        (-1, {"least": 0}, "a finite number from 0, found -1"),
        (0.0, {"above": 0}, "a finite number above 0, found 0.0"),
        (1, {"least": 0, "below": 1}, "a finite number from 0 and below 1, found 1"),
        (1.5, {"least": 0, "whole": True}, "a whole number from 0, found 1.5"),
        (
            2**32,
            {"least": 0, "most": 2**32 - 1, "whole": True},
            "a whole number from 0 to 4294967295, found 4294967296",
        ),
        (0.5, {"most": 0.25}, "a finite number to 0.25, found 0.5"),
        (math.inf, {"whole": True}, "a whole number, found inf"),
    ],
)
def test_numbers_out_of_range(value, limits, expected):
    with pytest.raises(UserError, match=f"it must be {expected}$"):
        check_number("it", value, **limits)


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1), np.int64(1), 10**400])
def test_numbers_in_range(value):
    check_number("it", value, least=1, above=0, whole=True)
