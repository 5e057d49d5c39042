"""Rates that groups were made with: the numbers that the test gave them."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, lr_scheduler

from ctkd_lightning.callbacks.plugin.base_rates import base_rate


def optimizer(make=SGD, rate=0.3, **settings):
    """The first group has the optimizer's rate, the second one of its own."""
    groups = [{"params": [nn.Parameter(torch.ones(2))]}, {"params": [nn.Parameter(torch.ones(2))], "lr": rate}]
    return make(groups, **{"lr": 0.1, **settings})


def rates(host, *schedulers):
    return [base_rate(host, group, schedulers) for group in host.param_groups]


SCHEDULES = {
    "none": lambda o: None,
    "warm-up from 0": lambda o: lr_scheduler.LambdaLR(o, lambda step: step / 5),
    "warm-up": lambda o: lr_scheduler.LinearLR(o, 0.25),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "several": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.5, total_iters=2), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
def test_each_groups_own(schedule, tensor):
    value = torch.tensor if tensor else float
    host = optimizer(rate=value(0.3), lr=value(0.1))
    made = SCHEDULES[schedule](host)
    assert rates(host, made, "something else") == pytest.approx([0.1, 0.3])


CYCLES = {
    "CyclicLR": partial(lr_scheduler.CyclicLR, base_lr=0.02, max_lr=0.2, cycle_momentum=False),
    "OneCycleLR": partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=9, cycle_momentum=False),
}


@pytest.mark.parametrize("cycle", CYCLES)
def test_cycles_replace_the_groups_rates(cycle):
    host, other = optimizer(Adagrad), optimizer()
    made = CYCLES[cycle](host)
    assert rates(host, made) == [0.1, 0.1]
    assert rates(other, made) == [0.1, 0.3]
    chained = optimizer(Adagrad)
    assert rates(chained, lr_scheduler.ChainedScheduler([CYCLES[cycle](chained)])) == [0.1, 0.1]


def test_none():
    host = optimizer()
    host.defaults["lr"] = None
    for group, rate in zip(host.param_groups, (None, 0.0), strict=True):
        group["lr"] = rate
    assert rates(host) == [None, None]
