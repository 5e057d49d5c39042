"""Averages over processes, of which the others are played."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ctkd_lightning.callbacks.plugin.processes import average_gradients, broadcast_values


def parameters(*gradients):
    made = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(()))]
    for parameter, gradient in zip(made, gradients, strict=True):
        parameter.grad = None if gradient is None else torch.full_like(parameter, gradient)
    return made


def beside(*other):
    """Two processes: this one, and one with gradients and presences of the given values, as they are sent."""
    sent = torch.tensor(other)
    return SimpleNamespace(reduce=lambda values, reduce_op: (values + sent) / 2)


@pytest.mark.parametrize(
    ("mine", "other", "expected"),
    [
        ((1.0, 2.0), (3.0, 3.0, 3.0, 3.0, 5.0, 1.0, 1.0), (2.0, 3.5)),
        ((1.0, None), (3.0, 3.0, 3.0, 3.0, 5.0, 1.0, 1.0), (2.0, 2.5)),
        ((1.0, None), (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), (0.5, None)),
        ((None, None), (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), (None, None)),
    ],
    ids=["both", "one here", "none of one anywhere", "none anywhere"],
)
def test_average_of_gradients(mine, other, expected):
    made = parameters(*mine)
    average_gradients(made, beside(*other))
    for parameter, value in zip(made, expected, strict=True):
        assert (parameter.grad is None) == (value is None)
        if value is not None:
            assert torch.equal(parameter.grad, torch.full_like(parameter, value))


def test_values_of_the_first_process():
    made = parameters(None, None)
    first = [torch.arange(4.0).reshape(2, 2), torch.tensor(7.0)]
    broadcast_values(made, SimpleNamespace(broadcast=lambda values: first))
    assert all(torch.equal(parameter, value) for parameter, value in zip(made, first, strict=True))
