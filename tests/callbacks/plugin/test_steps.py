import warnings

import pytest

from ctkd_lightning.callbacks.plugin.steps import DistilledSteps
from ctkd_lightning.errors import UserError


def why():
    return "the reason"


def messages(epochs):
    steps = DistilledSteps()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for epoch in epochs:
            for distilled in epoch:
                steps.count(distilled, why)
            steps.end_epoch(why)
    return [str(warning.message) for warning in caught]


def test_some_steps_are_enough():
    assert messages([[False, True, False], [True], []]) == []


def test_none_at_all():
    with pytest.raises(UserError, match="the reason"):
        messages([[False, False]])


def test_epochs_without_steps_are_not_judged():
    assert messages([[], [True]]) == []


def test_a_later_epoch_without_any_is_told_once():
    assert messages([[True], [False], [False]]) == ["no step of this epoch was distilled: the reason"]


def test_a_long_start_without_any_is_told():
    assert messages([[False] * 60 + [True]]) == ["none of the first 50 steps was distilled: the reason"]
    assert messages([[False] * 40 + [True] + [False] * 60]) == []
