"""What a learned temperature costs a training step, against a fixed one.

    python -m benchmarks.temperature [--device cuda] [--rounds 40] [--batch 64] [--threads 2]

WRN-40-2 to WRN-16-2 on 32×32 images, 100 classes: whole steps (both networks, loss, backward, optimizer) with each
temperature take turns in an order that changes each round; the median over the rounds of each
round's ratio to the fixed one is printed, with quartiles. Beside it stands the loss alone, from logits to gradients,
whose difference to the fixed one is what the temperature costs: it is far below the noise of whole steps.
"""

from __future__ import annotations

import argparse
import inspect
import random
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ctkd_lightning import DistillationModule
from ctkd_lightning import temperature as package
from ctkd_lightning._facts import choices
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods import kd_loss
from ctkd_lightning.models import create_model
from ctkd_lightning.temperature import EnergyTemperature, LearnedTemperature, Temperature

CLASSES = 100


def temperatures() -> dict[str, Temperature]:
    """One of each kind, the learned ones at full strength."""
    made = {}
    for name, kind in choices(package, Temperature).items():
        if name == "recorded":  # a constant
            continue
        sized = "num_classes" in inspect.signature(kind).parameters
        made[name] = kind(num_classes=CLASSES) if sized else kind()
        if isinstance(made[name], EnergyTemperature):
            made[name].low, made[name].high = -20.0, -19.0
        if isinstance(made[name], LearnedTemperature):
            made[name].lambda_.fill_(1.0)
    return made


def whole_step(temperature: Temperature, batch: int, device: str) -> Callable[[], None]:
    """One optimization step of the distillation module."""
    torch.manual_seed(0)
    module = DistillationModule(
        create_model("wrn_40_2", CLASSES),
        create_model("wrn_16_2", CLASSES),
        temperature=temperature,
        channels_last=True,
    ).to(device)
    optimizer = module.configure_optimizers()
    images = module.images_in_layout(torch.randn(batch, 3, 32, 32, device=device))
    data = (images, torch.randint(CLASSES, (batch,), device=device))

    def step() -> None:
        optimizer.zero_grad()
        module.losses(images, data)["loss"].backward()
        optimizer.step()

    return step


def loss_alone(temperature: Temperature, batch: int, device: str) -> Callable[[], None]:
    """The loss from given logits, and its gradients."""
    temperature.to(device)
    student = torch.randn(batch, CLASSES, device=device, requires_grad=True)
    teacher = torch.randn(batch, CLASSES, device=device)
    target = torch.randint(CLASSES, (batch,), device=device)

    def step() -> None:
        loss = kd_loss(student, teacher, temperature.soften(student, teacher, Step(target)))
        (0.1 * F.cross_entropy(student, target) + 0.9 * loss).backward()

    return step


def take_turns(
    steps: dict[str, Callable[[], None]], rounds: int, device: str, repeats: int = 1
) -> dict[str, list[float]]:
    """Seconds of each step in each round; the first rounds warm up and are not kept."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order, warm_up = list(steps), 3
    for round_ in range(rounds + warm_up):
        random.Random(round_).shuffle(order)
        for name in order:
            start = time.perf_counter()
            for _ in range(repeats):
                steps[name]()
            if device == "cuda":
                torch.cuda.synchronize()
            if round_ >= warm_up:
                seconds[name].append((time.perf_counter() - start) / repeats)
    return seconds


def report(title: str, seconds: dict[str, list[float]]) -> None:
    """Print medians, and ratios to the fixed temperature paired by round."""
    print(f"\n{title}\n{'':10}{'median ms':>12}{'ratio to fixed':>18}{'quartiles':>20}{'difference µs':>16}")
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds["fixed"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        difference = 1e6 * statistics.median(a - b for a, b in zip(times, seconds["fixed"], strict=True))
        quartiles = f"{low:.4f} to {high:.4f}"
        print(f"{name:10}{1e3 * statistics.median(times):12.3f}{middle:18.4f}{quartiles:>20}{difference:16.1f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    batch, device = arguments.batch, arguments.device

    print(f"torch {torch.__version__}, {device}, {arguments.threads} threads, batch {batch}, {arguments.rounds} rounds")
    losses = {name: loss_alone(temperature, batch, device) for name, temperature in temperatures().items()}
    alone = take_turns(losses, 10 * arguments.rounds, device, repeats=20)
    steps = {name: whole_step(temperature, batch, device) for name, temperature in temperatures().items()}
    whole = take_turns(steps, arguments.rounds, device)
    report("whole step", whole)
    report("loss alone", alone)
    step = statistics.median(whole["fixed"])
    for name in alone:
        extra = statistics.median(a - b for a, b in zip(alone[name], alone["fixed"], strict=True))
        print(f"{name}: {100 * extra / step:+.3f} % of a whole step")


if __name__ == "__main__":
    main()
