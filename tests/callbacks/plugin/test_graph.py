"""Against autograd itself: a loss depends on a call where the call's output gets a gradient."""

import torch
from torch import nn

from ctkd_lightning.callbacks.plugin.calls import CallRecorder
from ctkd_lightning.callbacks.plugin.graph import calls_behind


def test_agrees_with_autograd():
    torch.manual_seed(2)
    net, head = nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    recorder = CallRecorder(net)
    with recorder.recording():
        a, b = net(torch.randn(2, 4)), net(torch.randn(2, 4))
        c = net(torch.cat([b, b[:, :1]], dim=1))  # made of another call's output
    losses = {
        "one": head(a).mean(),
        "detached": head(a.detach()).mean(),
        "both": a.sum() * b.sum(),
        "through a call": head(c).mean(),
        "all": torch.stack([a.sum(), head(c).sum()]).logsumexp(0),
        "other": head(torch.randn(2, 3)).mean(),
        "constant": torch.tensor(1.0),
    }
    for name, loss in losses.items():
        gradients = [None] * 3
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss, [a, b, c], retain_graph=True, allow_unused=True)
        expected = [call.output for call, g in zip(recorder.calls, gradients, strict=True) if g is not None]
        found = [call.output for call in calls_behind(loss, recorder.calls)]
        assert [id(x) for x in found] == [id(x) for x in expected], name


def test_outputs_in_containers():
    class Wrapped(nn.Linear):
        def forward(self, x):
            return {"logits": super().forward(x)}

    class Opaque(nn.Linear):
        def forward(self, x):
            return [super().forward(x).__mul__]  # a tensor that cannot be found

    for kind, others in ((Wrapped, 0), (Opaque, 1)):
        recorder = CallRecorder(kind(4, 3))
        with recorder.recording():
            recorder.network(torch.ones(1, 4))
        assert len(calls_behind(nn.Linear(2, 1)(torch.ones(2)), recorder.calls)) == others


def test_a_parameter_as_output():
    class Table(nn.Linear):
        def forward(self, x):
            return self.weight

    recorder = CallRecorder(Table(4, 3))
    with recorder.recording():
        loss = recorder.network(None).sum()
    assert len(calls_behind(loss, recorder.calls)) == 1
