import warnings

import pytest
import torch
from torch import nn

from ctkd_lightning.callbacks.plugin.accumulation import AccumulationWatch


def passes(pattern, *, optimizer_holds=True):
    """Run a pattern of b(ackward), s(tep), z(ero) and messages that come of it."""
    net, other = nn.Linear(2, 1), nn.Linear(2, 1)
    optimizer = torch.optim.SGD((net if optimizer_holds else other).parameters(), lr=0.1)
    watch = AccumulationWatch(net.parameters(), [optimizer])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for action in pattern:
            if action == "b":
                watch.count_backward()
                net(torch.ones(1, 2)).sum().backward()
            elif action == "s":
                optimizer.step()
            else:
                optimizer.zero_grad(set_to_none=action == "z")
    watch.close()
    assert not optimizer._optimizer_step_pre_hooks
    return [str(warning.message) for warning in caught if "accumulates" in str(warning.message)]


@pytest.mark.parametrize("pattern", ["bszbsz", "zbszbs", "0bs0bs0bs", "bzbs", "bb", "s"])
def test_one_pass_a_step(pattern):
    assert passes(pattern) == []


@pytest.mark.parametrize(("pattern", "count"), [("bbsz", 2), ("zbbbs", 3), ("bszbbsbbs", 2), ("0bbbb0s", 4)])
def test_several_passes_are_told_once(pattern, count):
    (message,) = passes(pattern)
    assert f"accumulates the gradients of {count} backward passes" in message
    assert f"accumulate_grad_batches={count}" in message


def test_other_optimizers_do_not_count():
    assert passes("bbsbs", optimizer_holds=False) == []
