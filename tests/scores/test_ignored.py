"""Which positions count."""

import math

import pytest
import torch

from ctkd_lightning._scores.ignored import IgnoredTargets, fit_mask, kept_targets
from ctkd_lightning.errors import UserError


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int64, torch.bool])
def test_an_ignored_number_outside_the_type_leaves_nothing_out(dtype):
    target = torch.arange(256).to(dtype)
    for index in (-1000, 1000):
        assert kept_targets(target, index).all()
    assert dtype != torch.uint8 or kept_targets(target, -100).all()


def test_targets_of_half_precision():
    ignored = IgnoredTargets()
    assert ignored.mask(torch.tensor([1.0, 0.0], dtype=torch.bfloat16)) is None
    assert ignored.mask(torch.tensor([1.0, -100.0], dtype=torch.bfloat16)).tolist() == [True, False]


@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 1, 1), (2, 3, 1), (2, 1, 4), (24,), (2, 3, 4), (2, 3, 4, 1)])
def test_masks_that_fit(shape):
    mask = torch.rand(shape)
    expected = mask.reshape(2, 3, 4) if mask.numel() == 24 else mask.reshape(shape + (1,) * (3 - len(shape)))
    assert torch.equal(fit_mask(mask, torch.Size((2, 3, 4))), expected.expand(2, 3, 4))


@pytest.mark.parametrize("mask", [torch.ones(3), torch.ones(2, 4, 3), torch.ones(1, 3, 4), [True, False]])
def test_masks_that_do_not_fit(mask):
    with pytest.raises(UserError, match="mask"):
        fit_mask(mask, torch.Size((2, 3, 4)))


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2000,), (40, 50)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.bfloat16])
def test_few_targets_and_many(shape, dtype):
    target = torch.arange(math.prod(shape)).remainder(9).reshape(shape).to(dtype)
    ignored = IgnoredTargets(-3)
    assert ignored.mask(target) is None
    assert not ignored.seen
    target.view(-1)[-2] = -3
    assert ignored.mask(target).flatten().nonzero().numel() == target.numel() - 1
    assert ignored.seen
