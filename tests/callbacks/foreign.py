"""LightningModules as others write them, and the training loop that the callback must equal."""

import copy

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ctkd_lightning import GlobalTemperature
from ctkd_lightning.methods import kd_loss
from tests.quiet import quiet_trainer

LEARNING_RATE, MOMENTUM, EPOCHS = 0.5, 0.9, 3
TAU_INIT, TAU_RANGE = 0.5, 4.0


def samples(seed=1, count=32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator)


def loader(seed=1, count=32):
    return DataLoader(TensorDataset(*samples(seed, count)), batch_size=8)


def network(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


def student():
    return network(1)


def teacher():
    net = network(2)
    with torch.no_grad():
        net[2].weight.mul_(8.0)  # sure of itself, so that the temperature has something to do
    return net


def temperature():
    return GlobalTemperature(TAU_INIT, TAU_RANGE, initial_value=0.0)


class Plain(LightningModule):
    """Knows nothing of distillation."""

    def __init__(self, net=None):
        super().__init__()
        self.net = student() if net is None else net

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/loss", F.cross_entropy(self(x), y))

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return self(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)


class Direct(Plain):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.forward(batch[0]), batch[1])


class Part(Plain):
    def training_step(self, batch):
        return F.cross_entropy(self.net(batch[0]), batch[1])


class DictOutput(Plain):
    def training_step(self, batch, batch_idx):
        return {"loss": super().training_step(batch, batch_idx), "extra": batch[1]}


class Manual(Plain):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
        optimizer.step()


class TwoLoaders(Plain):
    def training_step(self, batch, batch_idx):
        return sum(F.cross_entropy(self(x), y) for x, y in batch.values()) / 2


class Distilling(Plain):
    """Distils by itself, with one of our temperatures, which its optimizer leaves out."""

    def __init__(self, net=None):
        super().__init__(net)
        self.temperature = temperature()
        self.teacher_net = teacher().requires_grad_(False)

    def loss(self, batch):
        x, y = batch
        logits, teacher_logits = self(x), self.teacher_net(x)
        kd = kd_loss(logits, teacher_logits, self.temperature(logits, teacher_logits))
        return 0.1 * F.cross_entropy(logits, y) + 0.9 * kd

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)


class DistillingManual(Distilling):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


class DistillingTwoLoaders(Distilling):
    def training_step(self, batch, batch_idx):
        return sum(self.loss(part) for part in batch.values()) / 2


def trainer(tmp_path, *callbacks, **settings):
    return quiet_trainer(tmp_path, **{"max_epochs": EPOCHS, **settings}, callbacks=list(callbacks))


def by_hand(
    curriculum,
    *,
    epochs=EPOCHS,
    accumulate=1,
    clip_norm=None,
    clip_value=None,
    autocast=None,
    dtype=torch.float32,
    seeds=(1,),
    batch_size=8,
    distil=True,
):
    """Train without Lightning and without this package: torch's KL divergence, and the reversal as a sign."""
    net, guide = student().to(dtype), teacher().to(dtype).eval()
    value = torch.zeros((), requires_grad=True)
    parameters = [*net.parameters(), value]
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM)
    data = [samples(seed) for seed in seeds]
    for epoch in range(epochs):
        for step, start in enumerate(range(0, 32, batch_size)):
            with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
                losses = []
                for x, y in data:
                    x, y = x[start : start + batch_size].to(dtype), y[start : start + batch_size]
                    logits = net(x)
                    with torch.no_grad():
                        expected = guide(x).float()
                    tau = TAU_INIT + TAU_RANGE * torch.sigmoid(value)
                    log_q, log_p = (F.log_softmax(z.float() / tau, dim=-1) for z in (logits, expected))
                    kd = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean") * tau**2
                    ce = F.cross_entropy(logits, y)
                    losses.append(0.1 * ce + 0.9 * kd if distil else ce)
                loss = sum(losses) / len(losses) / accumulate
            loss.backward()
            if (step + 1) % accumulate:
                continue
            if value.grad is not None:
                value.grad.mul_(-curriculum(epoch))
            if clip_norm:
                nn.utils.clip_grad_norm_(net.parameters(), clip_norm)
            if clip_value:
                nn.utils.clip_grad_value_(net.parameters(), clip_value)
            optimizer.step()
            optimizer.zero_grad()
    return copy.deepcopy(net), value.detach()


def difference(module, expected):
    pairs = zip(module.parameters(), expected.parameters(), strict=True)
    return max((a.float() - b.float()).abs().max().item() for a, b in pairs)


def assert_same_state(module, expected):
    state = module.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in state)
