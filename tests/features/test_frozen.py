import copy
import io

import pytest
import torch
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.features.frozen import FrozenNetwork, check_complete


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


class InPlace(nn.Linear):
    def forward(self, x):
        return super().forward(x.sub_(5.0))


class Popping(nn.Linear):
    def forward(self, batch):
        return super().forward(batch.pop("x").sub_(5.0))


def test_what_the_network_does_to_its_input_the_caller_does_not_see():
    layer, popping = InPlace(4, 3), Popping(4, 3)
    for step in range(4):
        x = torch.full((2, 4), float(step))
        for network, given in ((layer, x), (popping, {"x": x})):
            frozen = FrozenNetwork(network)
            expected = nn.functional.linear(x - 5.0, network.weight, network.bias)
            for _ in range(4):
                assert torch.equal(frozen(given), expected)
                assert torch.equal(x, torch.full((2, 4), float(step)))


def test_a_network_that_writes_only_later_is_told():
    class Moody(nn.Linear):
        def forward(self, x):
            return super().forward(x.sub_(5.0) if moody else x)

    moody, frozen = False, FrozenNetwork(Moody(4, 3))
    for _ in range(3):
        frozen(torch.ones(2, 4))
    moody = True
    with pytest.raises(UserError, match=r"the teacher \(Moody\) overwrites its input argument 0"):
        frozen(torch.ones(2, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_inputs_are_cast_to_the_type_of_the_weights(dtype):
    class Nested(nn.Linear):
        def forward(self, batch, *, scale, index):
            types.append((batch["x"][0].dtype, scale.dtype, index.dtype))
            return super().forward(batch["x"][0]) * scale

    types, network = [], Nested(4, 3).to(dtype)
    x = torch.randn(2, 4)
    output = FrozenNetwork(network)({"x": [x]}, scale=torch.tensor(2.0), index=torch.arange(3))
    assert types == [(dtype, dtype, torch.int64)]
    assert torch.equal(output, 2 * nn.functional.linear(x.to(dtype), network.weight, network.bias))
    assert x.dtype == torch.float32
    assert torch.equal(FrozenNetwork(nn.Linear(4, 3).to(dtype))(x).isfinite(), torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_least_number_of_a_type_stays_finite(dtype):
    class Masked(nn.Linear):
        def forward(self, x, mask):
            return (super().forward(x) + mask).softmax(dim=-1)

    mask = torch.full((3,), torch.finfo(torch.float32).min)  # all masked: minus infinity would give NaN
    output = FrozenNetwork(Masked(4, 3).to(dtype))(torch.zeros(1, 4), mask)
    assert output.isfinite().all()


def test_token_networks_in_half_precision():
    network = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3)).half()
    assert FrozenNetwork(network)(torch.tensor([[1, 2]])).dtype == torch.float16


def net():
    return nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3))


KINDS = {
    "script": lambda network: torch.jit.script(network),
    "trace": lambda network: torch.jit.trace(network.eval(), torch.randn(2, 4)),
    "export": lambda network: torch.export.export(network.eval(), (torch.randn(2, 4),)).module(),
    "unflatten": lambda network: torch.export.unflatten(torch.export.export(network.eval(), (torch.randn(2, 4),))),
    "fx": lambda network: torch.fx.symbolic_trace(network),
}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_modules(kind, half):
    torch.manual_seed(3)
    network, x = net(), torch.randn(2, 4)
    expected = copy.deepcopy(network).eval()(x)
    frozen = FrozenNetwork(KINDS[kind](network))
    if half:
        frozen.half()
    output = frozen(x)
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=5e-3 if half else 1e-6)
    assert output.dtype == (torch.float16 if half else torch.float32)
    assert not any(p.requires_grad for p in frozen.network.parameters())


def backbone():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)).requires_grad_(False)


@pytest.mark.parametrize("training", [True, False])
def test_common_parts_keep_their_mode(training):
    common = backbone()
    student, teacher = nn.Sequential(common, nn.Linear(6, 3)), nn.Sequential(common, nn.Linear(6, 3), nn.Dropout(0.5))
    frozen = FrozenNetwork(teacher, shared=student)
    student.train(training)
    x = torch.randn(8, 4)
    first = frozen(x)
    assert torch.equal(frozen(x), first)  # no dropout
    assert all(part.training is training for part in student.modules())
    assert not teacher[2].training
    assert common[1].num_batches_tracked == 0
    assert [p.requires_grad for p in student.parameters()] == [False] * 4 + [True] * 2
    assert not any(p.requires_grad for p in teacher[1].parameters())


def test_common_parts_keep_their_mode_after_an_error():
    common = backbone()
    frozen = FrozenNetwork(nn.Sequential(common, nn.Linear(7, 3)), shared=nn.Sequential(common))
    with pytest.raises(RuntimeError):
        frozen(torch.randn(8, 4))
    assert all(part.training for part in common.modules())


def test_common_parts_may_come_late():
    owner, common = nn.Sequential(), backbone()
    frozen = FrozenNetwork(nn.Sequential(common, nn.Linear(6, 3)), shared=owner)
    owner.append(common)
    frozen(torch.randn(8, 4))
    frozen.freeze()  # once is enough
    frozen(torch.randn(8, 4))
    assert all(part.training for part in owner.modules())


def test_common_parts_that_are_trained_are_refused():
    common = backbone().requires_grad_(True)
    frozen = FrozenNetwork(nn.Sequential(common, nn.Linear(6, 3)), shared=nn.Sequential(common))
    with pytest.raises(UserError, match=r"shares 4 trained parameter\(s\) with Sequential, such as '0.0.weight'"):
        frozen.freeze()


def test_stays_where_one_of_the_inputs_is():
    class Lengths(nn.Linear):
        def forward(self, lengths, x):
            return super().forward(x.float().cpu() if x.is_meta else x)

    frozen = FrozenNetwork(Lengths(4, 3))
    frozen(torch.zeros(2, device="meta"), torch.zeros(2, 4))  # which would move it and lose its weights
    assert not frozen.network.weight.is_meta


def test_a_teacher_whose_weights_are_not_there():
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(UserError, match=r"'1\.weight' has no shape yet.*run the teacher once on an example") as error:
        check_complete(lazy)
    assert "\n" not in str(error.value)
    lazy(torch.zeros(2, 4))
    check_complete(lazy)
    norm = nn.LazyBatchNorm1d(affine=False)  # has buffers alone
    with pytest.raises(UserError, match="'running_mean' has no shape yet"):
        check_complete(norm)
    for meta in (nn.Linear(4, 3, device="meta"), nn.BatchNorm1d(3, affine=False, device="meta")):
        with pytest.raises(UserError, match=r"is on the meta device.*to_empty\(device='cpu'\), and load") as error:
            check_complete(meta)
        assert "\n" not in str(error.value)
        check_complete(meta.to_empty(device="cpu"))
