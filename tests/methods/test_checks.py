import math

import pytest
import torch
from torch.nn import functional as F

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods._checks import (
    centred_unit,
    check_logits,
    no_autocast,
    pool_to_smaller,
    unit,
)
from ctkd_lightning.temperature._softening import check_temperature, per_position


def test_unit_vectors_are_torchs_and_zero_vectors_have_a_tame_gradient():
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(unit(x, dim=1), F.normalize(x, dim=1))
    zero = torch.zeros(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(unit(zero).sum(), zero)
    assert gradient.tolist() == [[1.0] * 3] * 2


def test_centred_unit_vectors_have_a_bounded_gradient():
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(centred_unit(x, 1, floor=1e-9), F.normalize(x - x.mean(1, keepdim=True)))
    constant = torch.full((1, 3), 7.0, requires_grad=True)
    value = centred_unit(constant, 1, floor=1e-3)
    (gradient,) = torch.autograd.grad(value[0, 0], constant)
    assert not value.any()
    torch.testing.assert_close(gradient, 1e3 * torch.tensor([[2 / 3, -1 / 3, -1 / 3]]))


def test_pooling_to_the_smaller_map():
    student, teacher = torch.randn(2, 3, 8, 4), torch.randn(2, 5, 4, 4)
    pooled, same = pool_to_smaller(student, teacher)
    torch.testing.assert_close(pooled, F.avg_pool2d(student, (2, 1)))
    assert same is teacher


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_temperature_is_a_scalar(shape):
    assert per_position(torch.full(shape, 4.0), torch.zeros(2, 3, 5)).shape == ()


@pytest.mark.parametrize(
    ("shape", "broadcast"), [((2,), (2, 1, 1)), ((2, 1), (2, 1, 1)), ((2, 3), (2, 3, 1)), ((3, 1), (3, 1, 1))]
)
def test_temperatures_broadcast_from_the_left(shape, broadcast):
    temperature = torch.rand(shape)
    shaped = per_position(temperature, torch.zeros(shape[0], 3, 5))
    assert shaped.shape == broadcast
    assert torch.equal(shaped.flatten(), temperature.flatten())


def test_matrix_products_keep_their_digits_under_autocast():
    x = torch.rand(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with no_autocast(x):
            assert torch.equal(x @ x, torch.mm(x, x))
            assert (x @ x).dtype == torch.float32


@pytest.mark.parametrize("value", ["4", None, 0.0, -1, math.nan, math.inf])
def test_temperatures_out_of_range(value):
    with pytest.raises(UserError, match="temperature must be a finite number above 0, found"):
        check_temperature(value, torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ((5,), "expected a scalar$"),
        ((2, 5), r"expected a scalar or one per sample \(2,\) or \(2, 1\)$"),
        ((2, 4, 5), r"expected a scalar or one per sample \(2,\) or \(2, 1\) or one per position \(2, 4\)$"),
    ],
)
def test_temperatures_of_a_shape_that_does_not_fit(logits, expected):
    with pytest.raises(UserError, match=rf"temperature has shape \(3,\): {expected}"):
        check_temperature(torch.ones(3), torch.zeros(logits))


def test_logits_without_classes_or_with_too_many_dimensions():
    with pytest.raises(UserError, match=r"expected \(\.\.\., C\)"):
        check_logits(torch.zeros(()), torch.zeros(()))
    with pytest.raises(UserError, match=r"expected \(B, C\)"):
        check_logits(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), ndim=2)
