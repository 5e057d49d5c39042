import copy
import dataclasses
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.features._arguments import ArgumentGuard, map_tensors, tensors_in

Pair = namedtuple("Pair", "x y")


@dataclasses.dataclass
class Record:
    x: torch.Tensor
    note: str = "kept"


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: torch.Tensor


@dataclasses.dataclass(slots=True)
class Slots:
    x: torch.Tensor


class Tagged(tuple):
    pass


def tagged(x):
    value = Tagged([x])
    value.tag = "kept"
    return value


CONTAINERS = {
    "dict": lambda x: {"x": x},
    "ordered": lambda x: OrderedDict(x=x),
    "default": lambda x: defaultdict(list, x=x),
    "list": lambda x: [None, x],
    "deque": lambda x: deque([x], maxlen=3),
    "tuple": lambda x: ("word", x),
    "named tuple": lambda x: Pair(x, 3),
    "tuple of its own": tagged,
    "torch's result": lambda x: x.max(dim=0),
    "UserDict": lambda x: UserDict(x=x),
    "dataclass": Record,
    "frozen dataclass": Frozen,
    "dataclass with slots": Slots,
    "object": lambda x: SimpleNamespace(x=x),
    "nested": lambda x: {"a": [(Record(x), {"b": UserDict(c=x)})]},
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_containers_are_copied_with_their_type(kind):
    value = CONTAINERS[kind](torch.tensor([1.0, 2.0]))
    before = [tensor.clone() for tensor in tensors_in(value)]
    twin = map_tensors(value, lambda tensor, path: tensor * 10)
    assert type(twin) is type(value)
    assert twin is not value
    assert [x.tolist() for x in tensors_in(twin)] == [(10 * x).tolist() for x in before]
    assert [x.tolist() for x in tensors_in(value)] == [x.tolist() for x in before]
    assert len(before) > 0
    for name in ("note", "tag"):
        assert getattr(twin, name, None) == getattr(value, name, None)


def test_batch_encoding():
    transformers = pytest.importorskip("transformers")
    value = transformers.BatchEncoding({"ids": torch.ones(2)})
    twin = map_tensors(value, lambda tensor, path: tensor + 1)
    value.pop("ids")
    assert type(twin) is type(value)
    assert twin["ids"].tolist() == [2.0, 2.0]


def test_what_is_no_container_stays():
    layer, array, function = nn.Linear(2, 2), np.ones(2), lambda x: x
    for value in (
        None,
        3,
        2.5,
        "word",
        b"bytes",
        layer,
        array,
        function,
        torch.float32,
        nn.Linear,
        SimpleNamespace(a=1),
    ):
        assert map_tensors(value, lambda tensor, path: tensor + 1) is value


@pytest.mark.parametrize("kind", ["dict", "list", "UserDict", "dataclass", "object"])
def test_what_is_put_in_a_tensors_place_does_not_reach_the_second_set(kind):
    keeper = guard()

    def replace(value):
        if isinstance(value, list):
            value[1] = value[1] * 0
        elif hasattr(value, "x"):
            value.x = value.x * 0
        else:
            value["x"] = value["x"] * 0

    for _ in range(4):
        kept = call(keeper, replace, CONTAINERS[kind](torch.ones(2)))
        assert [x.tolist() for x in tensors_in(kept.args)] == [[1.0, 1.0]]


class Stubborn(dict):
    def __reduce_ex__(self, protocol):
        raise TypeError("no copies")


def test_what_cannot_be_copied_stays():
    value = Stubborn(x=torch.ones(1))
    assert map_tensors(value, lambda tensor, path: tensor + 1) is value
    assert value["x"].item() == 1.0


def test_paths():
    found = []
    map_tensors(({"x": [torch.ones(1)]},), lambda tensor, path: found.append(path) or tensor)
    assert found == [(0, "x", 0)]


def guard():
    return ArgumentGuard("{where} was overwritten")


def call(guard, function, *args, **kwargs):
    """What the second set holds after a function has had the first."""
    kept = guard.keep(args, kwargs)
    function(*args, **kwargs)
    kept.check()
    return kept


WRITERS = {
    "in place": lambda x: x.mul_(3.0),
    "a view": lambda x: x[:1].zero_(),
    "data": lambda x: x.data.add_(1.0),
    "NumPy": lambda x: np.add(x.numpy(), 5.0, out=x.numpy()),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_keeps_what_is_written_to(writer):
    watched = guard()
    for step in range(5):
        x = torch.full((3,), step + 7.0)
        kept = call(watched, lambda x: WRITERS[writer](x), x)
        assert kept.args[0].tolist() == [step + 7.0] * 3
        assert x.tolist() != [step + 7.0] * 3


def test_copies_only_at_first_what_nobody_writes_to():
    watched = guard()
    same = [call(watched, lambda x: x + 1, x := torch.ones(2)).args[0] is x for _ in range(4)]
    assert same == [False, False, True, True]
    same = [call(watched, lambda *, m: m + 1, m=(m := torch.ones(2))).kwargs["m"] is m for _ in range(4)]
    assert same == [False, False, True, True]


def test_each_place_counts_for_itself():
    watched = guard()
    for _ in range(4):
        a, b = torch.ones(2), torch.ones(2)
        kept = call(watched, lambda pair: pair["b"].zero_(), {"a": a, "b": b})
    assert kept.args[0]["a"] is a
    assert kept.args[0]["b"].tolist() == [1.0, 1.0]


def test_what_is_taken_out_is_kept():
    watched = guard()
    for _ in range(4):
        kept = call(watched, lambda batch: batch.pop("x"), {"x": torch.ones(2)})
        assert list(kept.args[0]) == ["x"]


def test_two_calls_on_one_buffer():
    watched, buffer = guard(), torch.zeros(2)
    for _ in range(4):
        first = watched.keep((buffer.fill_(1.0),), {})
        second = watched.keep((buffer.fill_(2.0),), {})
        first.check()
        second.check()
        assert (first.args[0].tolist(), second.args[0].tolist()) == ([1.0, 1.0], [2.0, 2.0])


def test_a_late_writer_is_told_once():
    watched = guard()
    for _ in range(3):
        call(watched, lambda batch: None, batch={"ids": [torch.ones(2)]})
    with pytest.raises(UserError, match=r"batch\['ids'\]\[0\] was overwritten"):
        call(watched, lambda batch: batch["ids"][0].zero_(), batch={"ids": [torch.ones(2)]})
    kept = call(watched, lambda batch: batch["ids"][0].zero_(), batch={"ids": [torch.ones(2)]})
    assert kept.kwargs["batch"]["ids"][0].tolist() == [1.0, 1.0]
    for _ in range(3):
        call(watched, lambda x: None, torch.ones(2))
    with pytest.raises(UserError, match="argument 0 was overwritten"):
        call(watched, lambda x: x.zero_(), torch.ones(2))


def test_tensors_without_a_count_are_copied():
    watched = guard()
    with torch.inference_mode():
        for _ in range(4):
            x = torch.ones(2)
            kept = call(watched, lambda x: x.zero_(), x)
            assert kept.args[0].tolist() == [1.0, 1.0]


def test_conversion_is_a_copy():
    watched = guard()
    x = torch.ones(2)
    kept = watched.keep(
        (x,), {"n": torch.ones(2, dtype=torch.int64)}, lambda t: t.half() if t.is_floating_point() else t
    )
    assert kept.args[0].dtype == torch.float16
    assert kept.kwargs["n"].dtype == torch.int64


def test_is_copied_with_its_owner():
    watched = guard()
    call(watched, lambda x: x.zero_(), torch.ones(2))
    assert copy.deepcopy(watched)._left_alone == watched._left_alone


def test_compiled_code_copies():
    watched = guard()

    def halve(x):
        kept = watched.keep((x,), {})
        x.mul_(0.5)
        return kept.args[0] + 0

    compiled = torch.compile(halve, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        assert compiled(torch.ones(2)).tolist() == [1.0, 1.0]
