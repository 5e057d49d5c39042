"""What the recorder sees of a network's calls, and what it leaves."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ctkd_lightning.callbacks.plugin.calls import CallRecorder
from ctkd_lightning.errors import UserError


def network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))


def record(net, *inputs, layers=None):
    recorder = CallRecorder(net, layers)
    with recorder.recording():
        outputs = [net(x) for x in inputs]
    return list(recorder.calls), outputs


def test_calls_in_their_order():
    x = torch.randn(2, 4)
    calls, outputs = record(network(), x, 2 * x)
    assert [call.output is output for call, output in zip(calls, outputs, strict=True)] == [True, True]
    assert [torch.equal(call.arguments.args[0], k * x) for call, k in zip(calls, (1, 2), strict=True)] == [True, True]
    assert all(call.features == {} for call in calls)


def test_calls_without_gradients_and_within_transforms_are_not_kept():
    net, recorder, x = network(), None, torch.randn(2, 4)
    recorder = CallRecorder(net)
    with recorder.recording():
        with torch.no_grad():
            net(x)
        torch.func.vmap(torch.func.jacrev(net))(x)
        assert recorder.calls == []
        net.requires_grad_(False)(x)
    assert [call.has_gradient for call in recorder.calls] == [False]


def test_gradients_within_outputs():
    class Wrapped(nn.Linear):
        def forward(self, x):
            return {"logits": super().forward(x), "hidden": (x,)}

    class Opaque(nn.Linear):
        def forward(self, x):
            return object()

    x = torch.randn(2, 4)
    for net, expected in ((Wrapped(4, 3), True), (Wrapped(4, 3).requires_grad_(False), False), (Opaque(4, 3), True)):
        calls, _ = record(net, x)
        assert calls[0].has_gradient is expected


def test_features_of_each_call():
    net, x = network(), torch.randn(2, 4)
    for _ in range(3):  # also where the copies of the first run are no longer made
        calls, _ = record(net, x, 3 * x, layers={"hidden": "0", "pooled": "2:input"})
        for call, k in zip(calls, (1, 3), strict=True):
            hidden = nn.functional.linear(k * x, net[0].weight, net[0].bias)
            torch.testing.assert_close(call.features["hidden"], hidden)
            torch.testing.assert_close(call.features["pooled"], hidden.relu())
            assert call.features["hidden"].requires_grad


def test_layers_that_are_not_there():
    with pytest.raises(UserError, match="no layer '7', asked for as 'hidden'"):
        CallRecorder(network(), {"hidden": "7"})


def test_hooks_are_taken_off():
    net = network()
    recorder = CallRecorder(net, {"hidden": "0"})
    assert net[0]._forward_hooks
    recorder.release()
    assert not net[0]._forward_hooks


def test_copies_made_meanwhile_are_networks_of_their_own():
    net, x = network(), torch.randn(2, 4)
    recorder = CallRecorder(net)
    with recorder.recording():
        twin, file = copy.deepcopy(net), io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        loaded, shallow = torch.load(file, weights_only=False), copy.copy(net)
        expected = net(x)
        assert len(recorder.calls) == 1
        for other in (twin, loaded, copy.deepcopy(twin)):
            assert torch.equal(other(x), expected)
            nn.init.zeros_(other[2].weight)
            assert torch.equal(other(x), other[2].bias.expand(2, 3))
            assert other.forward.__self__ is other
    assert b"ctkd_lightning" not in file.getvalue()
    recorder.calls.clear()
    assert "forward" not in vars(net)
    shallow(x)
    assert recorder.calls == []


def test_a_forward_that_is_replaced_is_recorded():
    net, x = network(), torch.randn(2, 4)
    recorder = CallRecorder(net)
    original = net.forward
    net.forward = lambda x: 2 * original(x)
    with recorder.recording():
        net(x)
    assert torch.equal(recorder.calls[0].output, 2 * original(x))
    with recorder.recording():
        net(x)
    assert torch.equal(recorder.calls[0].output, 2 * original(x))


def test_activation_checkpointing():
    net, x = network(), torch.randn(2, 4)
    recorder = CallRecorder(net)
    with recorder.recording():
        output = checkpoint(net, x, use_reentrant=False)
    assert torch.equal(recorder.calls[0].output, output)


def test_compiled_network_that_writes_into_its_input():
    class Halving(nn.Linear):
        def forward(self, x):
            return super().forward(x.mul_(0.5))

    torch._dynamo.reset()
    net = Halving(4, 3)
    owner = nn.Sequential(net)
    recorder = CallRecorder(net)
    compiled = torch.compile(owner, backend="aot_eager")
    for _ in range(3):
        with recorder.recording():
            output = compiled(x := torch.ones(2, 4))
        (call,) = recorder.calls
        assert call.arguments.args[0].tolist() == [[1.0] * 4] * 2
        assert x.tolist() == [[0.5] * 4] * 2
        assert call.output is output or torch.equal(call.output, output)
