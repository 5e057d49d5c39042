import pytest
import torch
from torch import nn

from ctkd_lightning.methods._adapter import Adapter, BatchNorm


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4, 5)])
def test_batch_norm_is_torchs(shape):
    x = torch.randn(shape)
    reference = nn.BatchNorm1d(3) if len(shape) == 2 else nn.BatchNorm2d(3)
    ours = BatchNorm(3)
    torch.testing.assert_close(ours(x), reference(x))
    torch.testing.assert_close(ours.state_dict(), reference.state_dict())
    torch.testing.assert_close(ours.eval()(x), reference.eval()(x))


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_a_single_vector_is_normalised_by_the_running_statistics(shape):
    layer = BatchNorm(3)
    layer(torch.randn(20, 3, 4, 4) * 2 + 1)
    before = layer.running_mean.clone()
    x = torch.randn(shape)
    in_training = layer(x)
    assert torch.equal(layer.running_mean, before)
    torch.testing.assert_close(in_training, layer.eval()(x))


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4, 5)])
def test_the_statistics_of_all_processes_are_torchs_in_one(shape):
    x = torch.randn(shape, dtype=torch.float64)
    reference = (nn.BatchNorm1d(3) if len(shape) == 2 else nn.BatchNorm2d(3)).double()
    ours = BatchNorm(3).double()
    for layer in (reference, ours):
        nn.init.constant_(layer.weight, 2.0)
        nn.init.constant_(layer.bias, -1.0)
    results = []
    for forward, layer in ((reference, reference), (ours._of_all_processes, ours)):
        own = x.clone().requires_grad_()
        y = forward(own)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        results.append([y.detach(), own.grad, layer.weight.grad, layer.bias.grad, *layer.buffers()])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (1, 3, 1, 1), (0, 3, 4, 4)])
def test_few_values_of_all_processes_are_normalised_by_the_running_statistics(shape):
    layer = BatchNorm(3)
    layer(torch.randn(20, 3) * 2 + 1)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = torch.randn(shape, requires_grad=True)
    y = layer._of_all_processes(x)
    y.sum().backward()
    assert x.grad.isfinite().all()
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    torch.testing.assert_close(y, layer.eval()(x))


def test_takes_its_input_in_its_own_type():
    adapter = Adapter(nn.Linear(3, 2))
    assert adapter(torch.ones(1, 3, dtype=torch.float16)).dtype == torch.float32
    assert adapter.half()(torch.ones(1, 3)).dtype == torch.float16
