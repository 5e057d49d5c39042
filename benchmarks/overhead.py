"""What Lightning and the callback cost a training step, and whether the callback waits for the device.

    python -m benchmarks.overhead [--steps 200] [--rounds 15]

Trainings of the same distillation take turns: a raw loop; a LightningModule that computes teacher, temperature and loss
by hand; a plain one with the callback; and the package's DistillationModule with the callback. A training counts by its
first decile over steps, which other work on the machine disturbs least, and on a CPU by the process's own time; the
medians over the rounds of the differences are the costs. The steps are tiny, so that they stand out; they do not grow
with the networks.

Operations that make the host wait for a device (reading a number, gathering by a mask, copying to the host) are counted
in trainings of two lengths, with and without the callback: what grows with the length is paid at each step. On a GPU
torch's own count of synchronisations stands beside it.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.quiet import hush, quiet_trainer
from ctkd_lightning import (
    ConstantCurriculum,
    CurriculumTemperatureCallback,
    DistillationModule,
    GlobalTemperature,
    gradient_reversal,
)
from ctkd_lightning.features.frozen import FrozenNetwork
from ctkd_lightning.methods import kd_loss

CLASSES, FEATURES, BATCH = 10, 32, 16
# A plain copy between devices is counted too, by its devices.
WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2")


def network(seed: int) -> nn.Module:
    """A tiny classifier."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, CLASSES))


class Plain(LightningModule):
    """Knows nothing of distillation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(0)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The student's and the temperature's."""
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class ByHand(Plain):
    """Distils without a callback."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.temperature = FrozenNetwork(network(1)), GlobalTemperature()
        self.temperature.lambda_.fill_(1.0)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Both losses."""
        student, teacher = self(batch[0]), self.teacher(batch[0])
        kd = kd_loss(student, teacher, self.temperature(student, teacher))
        return 0.1 * F.cross_entropy(student, batch[1]) + 0.9 * kd


class Distilled(DistillationModule):
    """The package's module on the same networks."""

    def __init__(self) -> None:
        super().__init__(network(1), network(0), optimizer=lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9))


class StepTimes(Callback):
    """Seconds from one step's end to the next one's."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._clock = time.perf_counter if trainer.strategy.root_device.type == "cuda" else time.process_time
        self._last = self._clock()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Read it."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        now = self._clock()
        self.seconds.append(now - self._last)
        self._last = now


class WaitCounter(TorchDispatchMode):
    """Count the operations that make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        to_host = name == "_to_copy" and str(kwargs.get("device", "")) == "cpu" and args[0].device.type != "cpu"
        self.count += name in WAITING or by_mask or to_host
        return func(*args, **kwargs)


def batches(steps: int) -> DataLoader[Any]:
    """Random vectors and classes."""
    x = torch.randn(steps * BATCH, FEATURES)
    return DataLoader(TensorDataset(x, torch.randint(CLASSES, (len(x),))), batch_size=BATCH)


def fit(module: LightningModule, steps: int, *callbacks: Callback) -> None:
    """One epoch of so many steps."""
    bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
    trainer = quiet_trainer("auto", max_epochs=1, callbacks=list(callbacks), enable_progress_bar=bar)
    trainer.fit(module, batches(steps))


def callback() -> CurriculumTemperatureCallback:
    """Way 2."""
    return CurriculumTemperatureCallback(ConstantCurriculum(), teacher=network(1))


def raw_step_time(steps: int) -> float:
    """Seconds of a step of a loop without Lightning, in plain torch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher, student = network(1).to(device).requires_grad_(False), network(0).to(device)
    raw = torch.ones((), device=device, requires_grad=True)
    optimizer = torch.optim.SGD([*student.parameters(), raw], lr=0.01, momentum=0.9)
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds, last = [], clock()
    for x, target in batches(steps):
        x, target = x.to(device), target.to(device)
        logits, tau = student(x), 1 + 20 * torch.sigmoid(gradient_reversal(raw, 1.0))
        with torch.no_grad():
            softened = F.log_softmax(teacher(x) / tau, 1)
        kl = F.kl_div(F.log_softmax(logits / tau, 1), softened, log_target=True, reduction="batchmean")
        loss = 0.1 * F.cross_entropy(logits, target) + 0.9 * tau.square() * kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        now = clock()
        seconds.append(now - last)
        last = now
    return statistics.quantiles(seconds, n=10)[0]


def step_time(make: Callable[[], LightningModule], steps: int, *callbacks: Callback) -> float:
    """Seconds of a step."""
    times = StepTimes()
    fit(make(), steps, *callbacks, times)
    return statistics.quantiles(times.seconds, n=10)[0]


def waits(make: Callable[[], LightningModule], steps: int, *callbacks: Callback) -> int:
    """Operations that wait, in a training of so many steps."""
    with WaitCounter() as counter:
        fit(make(), steps, *callbacks)
    return counter.count


def waits_per_step(steps: int = 20) -> float:
    """What the callback adds to each step."""
    added = [waits(Plain, n, callback()) - waits(Plain, n) for n in (steps, 2 * steps)]
    return (added[1] - added[0]) / steps


def cuda_waits(steps: int) -> int:
    """Synchronisations in a training with the callback, as torch counts them on a GPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            fit(Plain(), steps, callback())
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    hush()
    torch.set_num_threads(1)
    turns: dict[str, Callable[[], float]] = {
        "raw loop": lambda: raw_step_time(options.steps),
        "by hand": lambda: step_time(ByHand, options.steps),
        "callback": lambda: step_time(Plain, options.steps, callback()),
        "module": lambda: step_time(Distilled, options.steps, CurriculumTemperatureCallback(ConstantCurriculum())),
    }
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(options.rounds):
        for name, turn in turns.items():
            times[name].append(1e6 * turn())
    print(f"raw loop                     {statistics.median(times['raw loop']):8.0f} µs a step")
    for name, over, what in (
        ("by hand", "raw loop", "Lightning adds"),
        ("callback", "by hand", "the callback adds"),
        ("callback", "raw loop", "both add"),
        ("module", "raw loop", "DistillationModule's all add"),
    ):
        costs = [a - b for a, b in zip(times[name], times[over], strict=True)]
        low, cost, high = statistics.quantiles(costs, n=4)
        print(f"{what:28} {cost:8.0f} µs  (quartiles {low:.0f} to {high:.0f}), {cost / 100:.2f} % of 10 ms")
    print(f"waits added a step           {waits_per_step():8.2f}")
    if torch.cuda.is_available():
        print(f"CUDA waits a step    {(cuda_waits(200) - cuda_waits(100)) / 100:8.2f}  (Lightning's own with them)")


if __name__ == "__main__":
    main()
