import pytest
import torch
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.features.frozen import FrozenNetwork
from ctkd_lightning.features.layers import unwrap
from ctkd_lightning.features.teachers import FrozenTeachers, named_teachers


class Doubling(nn.Module):
    """Writes into its input."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 3)

    def forward(self, x):
        return {"scores": self.net(x.mul_(2.0))}


class Wrapped(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.net = nn.Linear(4, 3).to(dtype)

    def forward(self, x):
        return {"scores": self.net(x)}


def test_each_is_asked_the_same_in_its_own_type_and_stands_still():
    networks = {"writes": Doubling(), "narrow": Wrapped(torch.bfloat16), "wide": Wrapped(torch.float64)}
    start = {name: {k: v.clone() for k, v in net.state_dict().items()} for name, net in networks.items()}
    teachers = FrozenTeachers({n: FrozenNetwork(net) for n, net in networks.items()}, pick=lambda out: out["scores"])
    teachers.train()
    x = torch.randn(5, 4)
    given = x.clone()
    scores = teachers(x)
    assert torch.equal(x, given)
    assert scores.shape == (5, 3, 3)
    assert not scores.requires_grad
    expected = [networks["writes"].net(2 * x), networks["narrow"].net(x.bfloat16()), networks["wide"].net(x.double())]
    for found, value in zip(scores.unbind(1), expected, strict=True):
        torch.testing.assert_close(found, value.double(), rtol=1e-6, atol=1e-6)
    assert not list(teachers.parameters())
    assert not teachers.state_dict()
    assert not any(part.training for net in networks.values() for part in net.modules())
    for name, net in networks.items():
        assert not any(p.requires_grad for p in net.parameters())
        assert all(torch.equal(v, start[name][k]) for k, v in net.state_dict().items())


def test_moves_reach_the_networks_and_what_looks_at_weights_finds_them():
    networks = {"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)}
    teachers = FrozenTeachers({n: FrozenNetwork(net) for n, net in networks.items()})
    teachers.double()
    assert {p.dtype for net in networks.values() for p in net.parameters()} == {torch.float64}
    assert list(unwrap(teachers).state_dict()) == ["a.weight", "a.bias", "b.weight", "b.bias"]


@pytest.mark.parametrize("odd", ["first", "second", "third"])
def test_the_one_that_scores_other_classes_is_named(odd):
    names = ("first", "second", "third")
    networks = {n: FrozenNetwork(nn.Linear(4, 7 if n == odd else 3)) for n in names}
    with pytest.raises(UserError, match=rf"teacher '{odd}' gives scores of shape \(5, 7\), and '.*' \(5, 3\): all"):
        FrozenTeachers(networks)(torch.randn(5, 4))


def test_one_is_itself():
    network = nn.Linear(4, 3)
    assert named_teachers(network) is network
    assert named_teachers({"only": network}) is network
    both = named_teachers({"a": network, "b": network})
    assert both["a"] is both["b"] is network


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "teacher must be a network, found int"),
        ({}, "teacher names no network"),
        ({"a": 3, "b": nn.Linear(4, 3)}, "teacher 'a' must be a network, found int"),
        ({"a.b": nn.Linear(4, 3)}, "a teacher is named 'a.b'"),
        ({"train": nn.Linear(4, 3), "b": nn.Linear(4, 3)}, "a teacher is named 'train'"),
        ({1: nn.Linear(4, 3)}, "a teacher is named 1"),
    ],
)
def test_what_are_no_teachers(given, message):
    with pytest.raises(UserError, match=message):
        named_teachers(given)
