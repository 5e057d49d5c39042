import copy
import io

import pytest
import torch
from torch import nn

from ctkd_lightning.frozen import FrozenNetwork


class Owner(nn.Module):
    def __init__(self):
        super().__init__()
        self.student = nn.Linear(4, 3)
        self.teacher = FrozenNetwork(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)))


def test_owner_neither_sees_nor_saves_the_network():
    owner = Owner()
    assert [name for name, _ in owner.named_parameters()] == ["student.weight", "student.bias"]
    assert list(owner.state_dict()) == ["student.weight", "student.bias"]
    assert not list(owner.buffers())


def test_loading_stays_strict():
    owner, state = Owner(), Owner().state_dict()
    owner.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\).*"teacher.other"'):
        owner.load_state_dict({**state, "teacher.other": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r'Missing key\(s\).*"student.bias"'):
        owner.load_state_dict({"student.weight": state["student.weight"]})


def test_stays_in_eval_mode_without_gradients():
    owner = Owner().train()
    x = torch.randn(8, 4, requires_grad=True)
    first, second = owner.teacher(x), owner.teacher(x)
    assert torch.equal(first, second)  # dropout is off
    assert not first.requires_grad
    owner.teacher.network.train()  # reached in
    assert torch.equal(owner.teacher(x), first)
    assert not owner.teacher.network.training
    assert owner.teacher.network[1].num_batches_tracked == 0


def test_a_part_put_into_train_mode_goes_back_to_eval_mode():
    owner = Owner()
    for network in (owner.teacher, copy.deepcopy(owner).teacher):
        network.network[1].train()
        network(torch.randn(8, 4))
        assert not any(part.training for part in network.network.modules())
        assert network.network[1].num_batches_tracked == 0


def test_follows_type_and_device():
    owner = Owner().to(torch.bfloat16)
    assert owner.teacher(torch.randn(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    owner = Owner().to("meta")
    assert owner.teacher(torch.randn(2, 4, device="meta")).device.type == "meta"


def test_survives_copy_and_pickle():
    owner, x = Owner(), torch.randn(2, 4)
    expected = owner.teacher(x)
    assert torch.equal(copy.deepcopy(owner).teacher(x), expected)
    file = io.BytesIO()
    torch.save(owner, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False).teacher(x), expected)


def test_follows_the_device_of_keyword_arguments():
    class Keyword(nn.Linear):
        def forward(self, *, x):
            return super().forward(x)

    assert FrozenNetwork(Keyword(4, 3))(x=torch.zeros(2, 4, device="meta")).device.type == "meta"
