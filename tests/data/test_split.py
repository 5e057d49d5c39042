import numpy as np
import pytest
import torch

from ctkd_lightning.data._split import complement, group_subset, members, stratified_subset

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


def test_another_split_is_another_subset():
    subsets = [stratified_subset(TARGETS, 20, split) for split in range(3)]
    assert torch.equal(subsets[0], stratified_subset(TARGETS, 20))
    assert len({str(subset.tolist()) for subset in subsets}) == 3
    for subset in subsets:
        assert np.bincount(TARGETS[subset]).tolist() == [10, 6, 4]


def test_whole_groups():
    groups = torch.tensor([5, 9, 5, 7, 9, 5, 8])
    for count in range(5):
        subset = group_subset(groups, count)
        inside, outside = groups[subset], groups[complement(subset, 7)]
        assert len(inside.unique()) == count
        assert not set(inside.tolist()) & set(outside.tolist())
        assert set(subset.tolist()) <= set(group_subset(groups, min(count + 1, 4)).tolist())


def test_members():
    assert members(torch.tensor([5, 9, 5]), torch.tensor([5, 4])).tolist() == [0, 2]
