import numpy as np
import pytest
import torch

from ctkd_lightning.data._split import complement, stratified_subset

TARGETS = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("count", [1, 9, 10, 33, 50, 99])
def test_class_proportions_to_within_one(count):
    subset = stratified_subset(TARGETS, count)
    assert len(set(subset.tolist())) == count
    assert subset.tolist() == sorted(subset.tolist())
    found = np.bincount(TARGETS[subset], minlength=3)
    assert np.abs(found - count * np.array([0.5, 0.3, 0.2])).max() <= 1


def test_exact_where_it_can_be():
    assert np.bincount(TARGETS[stratified_subset(TARGETS, 10)]).tolist() == [5, 3, 2]


def test_fixed_and_nested_and_random():
    small, large = stratified_subset(TARGETS, 10), stratified_subset(TARGETS, 40)
    assert torch.equal(small, stratified_subset(TARGETS, 10))
    assert set(small.tolist()) <= set(large.tolist())
    assert small.tolist() != list(range(10))


def test_complement():
    assert complement(torch.tensor([1, 3]), 5).tolist() == [0, 2, 4]
    assert complement(torch.tensor([], dtype=torch.int64), 2).tolist() == [0, 1]
