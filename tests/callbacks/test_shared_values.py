"""Values that a child process trains and its parent sees."""

import copy
import os

import pytest
import torch
from torch import multiprocessing, nn

from ctkd_lightning.callbacks.plugin.shared_values import SharedValues


def network():
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def child(net, shared, seen, rank):
    assert shared.detach()
    for value in net.state_dict(keep_vars=True).values():
        value.data.fill_(rank + 3)
    seen.put(rank)
    seen.join()  # both have trained before one writes
    if rank == 0:
        shared.write_back()


def values(net):
    return {float(value.float().mean()) for value in net.state_dict().values()}


def test_the_first_childs_values_come_back():
    net, context = network(), multiprocessing.get_context("spawn")
    shared, seen, before = SharedValues(net), context.JoinableQueue(), values(net)
    children = [context.Process(target=child, args=(net, shared, seen, rank)) for rank in (0, 1)]
    for process in children:
        process.start()
    for _ in children:
        seen.get(timeout=120)
    assert values(net) == before  # they trained values of their own
    for _ in children:
        seen.task_done()
    for process in children:
        process.join()
        assert process.exitcode == 0
    assert values(net) == {3.0}


def test_nothing_happens_in_one_process():
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    shared = SharedValues(net)
    pointers = [value.data_ptr() for value in net.state_dict().values()]
    assert shared.detach()
    shared.write_back()
    assert [value.data_ptr() for value in net.state_dict().values()] == pointers
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(value.is_shared() for value in net.state_dict().values())
    assert not any(value.is_shared() for value in copy.deepcopy(net).state_dict().values())


def test_values_that_are_not_shared_are_told(monkeypatch):
    def refuse(tensor):
        raise RuntimeError("unable to open shared memory object")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    shared = SharedValues(network())
    assert shared.detach()  # in one process there is nothing to tell
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert not shared.detach()
    with pytest.raises(RuntimeError, match="shared memory"):
        torch.zeros(1).share_memory_()
