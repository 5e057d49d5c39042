import copy
from collections.abc import Iterator

import pytest
import torch

from ctkd_lightning.callbacks.plugin.batches import GivenBatch, remember_batches


class Fetching(Iterator):
    data_fetcher = "Lightning's"
    done = False

    def __init__(self):
        self.number = 0

    def __next__(self):
        self.number += 1
        if self.number > 2:
            raise StopIteration
        return [self.number], self.number, 0


def test_remembers_the_last_batch():
    batches = remember_batches(Fetching())
    assert isinstance(batches, Iterator)
    assert batches.batch is None
    assert next(batches) == ([1], 1, 0)
    assert batches.batch == [1]
    assert (batches.done, batches.number) == (False, 1)
    assert copy.copy(batches).batch == [1]
    next(batches)
    with pytest.raises(StopIteration):
        next(batches)
    assert batches.batch == [2]


def test_other_arguments_stay():
    for value in ([1, 2], iter([1]), 3):
        assert remember_batches(value) is value


def test_as_it_came_with_what_was_added():
    live = {"x": 1, "labels": 2, "nested": [3]}
    given = GivenBatch(live)
    live.pop("labels")
    live["nested"].clear()
    live |= {"x": 4, "mixed": 5}
    assert given.batch == {"x": 1, "labels": 2, "nested": [3], "mixed": 5}
    assert "labels" not in live


def test_list_that_the_step_empties():
    live = [1, 2]
    given = GivenBatch(live)
    live.clear()
    assert given.batch == [1, 2]


def test_values_that_the_step_overwrites():
    live = {"x": torch.ones(2), "y": 3}
    given, plain = GivenBatch(live, keep_values=True), GivenBatch(live)
    live["x"].zero_()
    live["new"] = 4
    assert given.batch["x"] is plain.batch["x"] is plain.untouched["x"] is live["x"]
    assert {**given.untouched, "x": given.untouched["x"].tolist()} == {"x": [1.0, 1.0], "y": 3, "new": 4}


def test_values_of_fetched_batches():
    class Tensors(Fetching):
        def __next__(self):
            return [torch.ones(2)], 1, 0

    batches = remember_batches(Tensors(), keep_values=True)
    assert batches.untouched is None
    next(batches)[0][0].zero_()
    assert batches.untouched[0].tolist() == [1.0, 1.0]
    assert batches.batch[0].tolist() == [0.0, 0.0]
