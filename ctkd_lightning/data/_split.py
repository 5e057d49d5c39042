"""Fixed parts of a data set: in its classes' proportions, or whole groups of its samples."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SPLIT_SEED = 20230207
"""Of every fixed split: runs with different seeds, and a teacher and its student, share the split."""


def stratified_subset(targets: Tensor, count: int, split: int = 0) -> Tensor:
    """Draw a fixed subset whose class proportions are those of the whole, to within one sample a class.

    A smaller subset is a part of a larger one.

    Args:
        targets: (N,), int64 class indices.
        count: size of the subset.
        split: another number draws another subset.

    Returns:
        (count,), int64, sorted positions in ``targets``.

    Example:
        >>> targets = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> targets[stratified_subset(targets, 3)]
        tensor([0, 0, 1])
    """
    classes = targets.cpu().numpy()
    order = np.random.default_rng(SPLIT_SEED + split).permutation(len(classes))
    depth = np.empty(len(classes))  # how far down its class's share of the order a sample stands, 0 to 1
    for label in np.unique(classes):
        members = order[classes[order] == label]
        depth[members] = (np.arange(len(members)) + 0.5) / len(members)
    chosen = order[np.argsort(depth[order], kind="stable")][:count]
    return torch.from_numpy(np.sort(chosen))


def members(groups: Tensor, chosen: Tensor) -> Tensor:
    """The sorted positions of all samples of some groups.

    Args:
        groups: (N,), int64, the group of each sample, such as the person whom it was recorded from.
        chosen: (K,), int64, the groups.

    Example:
        >>> members(torch.tensor([7, 9, 7, 8]), torch.tensor([8, 7]))
        tensor([0, 2, 3])
    """
    return torch.isin(groups, chosen).nonzero().squeeze(1)


def group_subset(groups: Tensor, count: int) -> Tensor:
    """Draw a fixed subset that is all samples of ``count`` groups; that of fewer groups is a part of it.

    Args:
        groups: (N,), int64, the group of each sample.
        count: how many groups.

    Returns:
        (n,), int64, sorted positions in ``groups``.

    Example:
        >>> groups = torch.tensor([0, 0, 1, 1, 2, 2])
        >>> len(group_subset(groups, 2))
        4
    """
    names = groups.unique()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(names))
    return members(groups, names[torch.from_numpy(order[:count])])


def complement(subset: Tensor, count: int) -> Tensor:
    """The sorted positions from 0 to ``count - 1`` that are not in ``subset``."""
    kept = torch.ones(count, dtype=torch.bool)
    kept[subset] = False
    return kept.nonzero().squeeze(1)
