"""An optimizer's state from a checkpoint is compared before it is taken over: fused kernels look at no shape."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.modules import ClassifierModule


def optimizer_of(make):
    torch.manual_seed(0)
    module = ClassifierModule(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), optimizer=make)
    optimizer = module.configure_optimizers()
    module.classifier(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    return optimizer


SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


@pytest.mark.parametrize("make", [SGD, partial(torch.optim.AdamW, lr=0.1), torch.optim.Adagrad, torch.optim.RMSprop])
def test_its_own_state_is_taken_over(make):
    state = optimizer_of(make).state_dict()
    other = optimizer_of(make)
    other.load_state_dict(copy.deepcopy(state))
    assert torch.equal(*(next(iter(o["state"][0].values())) for o in (state, other.state_dict())))


@pytest.mark.parametrize(
    ("make", "name"), [(SGD, "momentum_buffer"), (partial(torch.optim.AdamW, amsgrad=True), "max_exp_avg_sq")]
)
@pytest.mark.parametrize("shape", [(5,), (3, 1), (4, 3)])
def test_another_shape(make, name, shape):
    optimizer = optimizer_of(make)
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0][name] = torch.zeros(shape)
    expected = rf"{name} of parameter 0 has shape \({', ?'.join(map(str, shape))},?\), the parameter \(3, 4\)"
    with pytest.raises(UserError, match=expected):
        optimizer.load_state_dict(state)
    state["state"][0][name] = "words"
    with pytest.raises(UserError, match="has shape words"):
        optimizer.load_state_dict(state)


def test_another_optimizer():
    adam = optimizer_of(partial(torch.optim.AdamW, lr=0.1)).state_dict()
    with pytest.raises(UserError, match="of another optimizer than SGD: it has no dampening, momentum, nesterov"):
        optimizer_of(SGD).load_state_dict(adam)
