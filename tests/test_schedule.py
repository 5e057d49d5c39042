import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.schedule import step_decay


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
