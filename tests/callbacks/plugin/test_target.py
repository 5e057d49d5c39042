"""Which entry of a batch is the target."""

import warnings

import pytest
import torch

from ctkd_lightning._scores.scores import Scores
from ctkd_lightning.callbacks.plugin.target import TargetFinder

SCORES = torch.zeros(6, 3)
INPUTS, CLASSES = torch.zeros(6, 4), torch.tensor([0, 2, 1, 1, 0, -100])
POSITIONS, LENGTHS = torch.arange(6) + 40, torch.tensor([1, 2, 2, 1, 2, 1])


def finder(masked=False):
    return TargetFinder(Scores(), -100, masked)


@pytest.mark.parametrize(
    "batch",
    [(INPUTS, CLASSES), (INPUTS, CLASSES, POSITIONS), (INPUTS, POSITIONS, CLASSES), {"x": INPUTS, "y": CLASSES}],
)
def test_found(batch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert finder().find(batch, SCORES) is CLASSES


def test_batches_of_another_kind_are_looked_at_anew():
    find = finder().find
    floats = torch.zeros(6)
    assert find((INPUTS, CLASSES), SCORES) is CLASSES
    assert find((INPUTS, floats, CLASSES), SCORES) is CLASSES  # another number of entries
    assert find((INPUTS, CLASSES, floats), SCORES) is CLASSES  # the same shapes, other types
    assert find((INPUTS, CLASSES[:4]), SCORES) is None  # another shape
    assert find((INPUTS, CLASSES[:4]), SCORES[:4]) is not None  # of other scores
    assert find({"y": floats, "z": CLASSES}, SCORES) is None  # with names
    assert find((INPUTS, CLASSES), SCORES) is CLASSES


def test_numbers_that_are_no_classes():
    found = finder()
    with pytest.warns(UserWarning, match="not all of them are from 0 to 2: they are not taken for classes"):
        assert found.find((INPUTS, POSITIONS), SCORES) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found.find((INPUTS, POSITIONS % 3), SCORES) is None  # what the first batch showed holds


def test_two_that_may_be_it():
    with pytest.warns(UserWarning, match=r"2 entries of shape \(6,\) that may be the target.*no ignored target"):
        assert finder().find((INPUTS, LENGTHS, CLASSES), SCORES) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert finder(masked=True).find((INPUTS, LENGTHS, CLASSES), SCORES) is None


def test_the_classes_of_pixels_may_be_named_a_mask_and_those_of_tokens_not():
    pixels, padding = torch.zeros(2, 4, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.long)
    assert finder().find({"image": torch.zeros(2, 3, 4, 4), "mask": pixels}, torch.zeros(2, 5, 4, 4)) is pixels
    assert finder().find({"x": torch.zeros(2, 4, 3), "mask": padding}, torch.zeros(2, 4, 5)) is None
