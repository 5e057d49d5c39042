"""Whose optimizer trains the temperature, and with which settings."""

import pytest
import torch
from torch import nn

from ctkd_lightning.callbacks.optimize import OptimizedParameters


def parameter(value=1.0):
    return nn.Parameter(torch.tensor(value))


def step(optimizer, parameters):
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()


def test_joins_the_students_settings():
    weight, tau = parameter(), parameter()
    optimizer = torch.optim.SGD([weight], lr=0.1, weight_decay=0.5)
    OptimizedParameters([optimizer], [], {"tau": tau})
    step(optimizer, [weight, tau])
    assert tau.item() == pytest.approx(1.0 - 0.1 * (1.0 + 0.5))
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("known", [False, True], ids=["left out", "already there"])
def test_settings_of_its_own(known):
    weight, tau = parameter(), parameter()
    optimizer = torch.optim.SGD([weight, tau] if known else [weight], lr=0.1, weight_decay=0.5)
    OptimizedParameters([optimizer], [], {"tau": tau}, learning_rate=0.2, weight_decay=0.0)
    step(optimizer, [weight, tau])
    assert tau.item() == pytest.approx(1.0 - 0.2)
    assert weight.item() == pytest.approx(1.0 - 0.1 * 1.5)


def test_what_is_optimised_already_stays():
    weight, tau = parameter(), parameter()
    optimizer = torch.optim.Adam([{"params": [weight]}, {"params": [tau], "lr": 0.3}])
    optimized = OptimizedParameters([optimizer], [], {"tau": tau})
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1]
    checkpoint = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": []}
    assert optimized.drop_from(checkpoint) == {}
    assert checkpoint["optimizer_states"] == [optimizer.state_dict()]


def test_frozen_parameters_are_left_alone():
    optimizer = torch.optim.SGD([parameter()], lr=0.1)
    OptimizedParameters([optimizer], [], {"tau": parameter().requires_grad_(False)})
    assert len(optimizer.param_groups[0]["params"]) == 1


def test_of_several_optimizers_the_students():
    discriminator, student, tau = parameter(), parameter(), parameter()
    optimizers = [torch.optim.SGD([p], lr=0.1) for p in (discriminator, student)]
    OptimizedParameters(optimizers, [], {"tau": tau}, beside=[student])
    assert [tau in set(o.param_groups[0]["params"]) for o in optimizers] == [False, True]


def test_named_parameters_keep_their_names():
    weight, tau = parameter(), parameter()
    for settings in ({}, {"learning_rate": 0.2}):
        optimizer = torch.optim.SGD([("weight", weight)], lr=0.1)
        optimized = OptimizedParameters([optimizer], [], {"tau": tau}, **settings)
        names = [name for group in optimizer.param_groups for name in group["param_names"]]
        assert names == ["weight", "tau"]
        checkpoint = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": []}
        kept = optimized.drop_from(checkpoint)
        assert [g["param_names"] for g in checkpoint["optimizer_states"][0]["param_groups"]] == [["weight"]]
        optimized.add_to(checkpoint, kept)
        optimizer.load_state_dict(checkpoint["optimizer_states"][0])


def test_rate_in_a_tensor():
    weight, tau = parameter(), parameter()
    optimizer = torch.optim.Adam([weight], lr=torch.tensor(0.1), capturable=False, foreach=False)
    OptimizedParameters([optimizer], [], {"tau": tau}, learning_rate=0.2)
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.1, 0.2])
    optimizer.param_groups[0]["lr"].fill_(0.5)
    assert float(optimizer.param_groups[1]["lr"]) == pytest.approx(0.2)  # not the same tensor


def test_no_optimizer():
    assert OptimizedParameters([], [], {"tau": parameter()}).homeless == ["tau"]


def test_state_of_another_layout_is_left_to_torch_to_explain():
    optimizer = torch.optim.SGD([parameter()], lr=0.1)
    optimized = OptimizedParameters([optimizer], [], {"tau": parameter()})
    foreign = torch.optim.SGD([parameter(), parameter(), parameter()], lr=0.1).state_dict()
    checkpoint = {"optimizer_states": [foreign], "lr_schedulers": []}
    optimized.add_to(checkpoint, {})
    with pytest.raises(ValueError, match="doesn't match the size"):
        optimizer.load_state_dict(checkpoint["optimizer_states"][0])
