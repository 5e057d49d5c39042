import pytest
from scipy.stats import binom

from ctkd_lightning.errors import UserError
from ctkd_lightning.teacher import check_beats_chance, teacher_key


@pytest.mark.parametrize(("classes", "samples"), [(10, 100), (100, 5000), (2, 50), (1000, 50000)])
def test_a_guesser_is_refused_and_a_teacher_is_not(classes, samples):
    lucky = 100 * binom.ppf(0.99, samples, 1 / classes) / samples
    with pytest.raises(UserError, match="teacher t is no better than chance: top-1"):
        check_beats_chance(lucky, classes, samples, "t")
    check_beats_chance(min(300 / classes, 90.0) if classes > 2 else 90.0, classes, samples, "t")


def test_nan_is_refused():
    with pytest.raises(UserError, match="no better than chance"):
        check_beats_chance(float("nan"), 10, 100, "t")


def test_key_depends_on_the_settings_and_not_on_their_order():
    assert teacher_key({"a": 1, "b": [2.0]}) == teacher_key({"b": [2.0], "a": 1})
    assert teacher_key({"a": 1}) != teacher_key({"a": 2})
