import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.schedule import step_decay, step_decay_with_warmup


def rates(epochs, **settings):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = step_decay(optimizer, epochs, **settings)
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_fractions_are_of_the_run_and_whole_numbers_are_epochs():
    assert rates(8) == pytest.approx([1.0] * 5 + [0.1] + [0.01] + [0.001])
    assert rates(240) == pytest.approx([1.0] * 150 + [0.1] * 30 + [0.01] * 30 + [0.001] * 30)
    assert rates(6, milestones=[2, 4], gamma=0.5) == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.25])


def test_bad_milestones():
    with pytest.raises(UserError, match="milestones must be positive, found"):
        rates(3, milestones=[0, 1])


def rates_of_steps(steps, **settings):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = step_decay_with_warmup(optimizer, steps, **settings)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_steps_with_a_linear_start():
    assert rates_of_steps(9, warmup_steps=4, warmup_start=0.2) == pytest.approx(
        [0.4, 0.8, 1.2, 1.6, 2.0, 2.0, 0.2, 0.2, 0.02]
    )
    assert rates_of_steps(4, milestones=[0.5], gamma=0.5, warmup_steps=0) == pytest.approx([2.0, 2.0, 1.0, 1.0])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedule = step_decay_with_warmup(optimizer, 180_000)
    share = schedule.lr_lambdas[0]
    assert [share(step) for step in (0, 1_000, 119_999, 120_000, 160_000)] == pytest.approx([1e-3, 1, 1, 0.1, 0.01])


@pytest.mark.parametrize("wrong", [{"milestones": [2]}, {"warmup_steps": -1}, {"warmup_start": 2}])
def test_bad_steps(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        rates_of_steps(3, **wrong)
