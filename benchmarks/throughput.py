"""Images a second of distillation loops, side by side.

    python -m benchmarks.throughput [--batch 64] [--rounds 5] [--steps 15] [--device cuda] [--json FILE]

WRN-40-2 to WRN-16-2 on 32×32 images of 100 classes with crops and flips, one process, the same images:

    (a) reference     what CTKD's published scripts do (benchmarks/reference_loop.py)
    (b) torchdistill  the peer of that name: pip install torchdistill; left out where it is not installed
    (c) float32       ours, precision 32-true
    (d) auto          ours, as trainer=auto chooses for this machine
    (e) warm cache    (d) with a teacher cache that knows the views
    (f) student alone the floor: (d) without teacher and distillation

``--compile`` adds (d), (e) and (f) with compiled networks. The contestants take turns in an order that changes each
round; each turn warms up for some steps and is then timed over ``--steps`` steps, and stops its worker processes before
the next begins. Printed are medians over the rounds, and ratios paired by round. Pixels are random: what they show
costs nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor

from benchmarks.quiet import hush, quiet_trainer
from benchmarks.reference_loop import PILImages, ReferenceLoop, loader_of
from ctkd_lightning import CurriculumTemperatureCallback, DistillationModule
from ctkd_lightning.curriculum import ConstantCurriculum
from ctkd_lightning.data import Fake
from ctkd_lightning.job.hardware import choose_channels_last, choose_precision, describe_hardware
from ctkd_lightning.models import create_model
from ctkd_lightning.modules.classifier import ClassifierModule

CLASSES = 100
WARM_UP = 3
Turn = Callable[[], float]
"""Trains for some steps; returns seconds a step."""


class Clock:
    """Seconds a step, from the end of the warm-up to the last step; only there it waits for the device.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        steps: with the warm-up.
    """

    def __init__(self, device: str, steps: int) -> None:
        self.device, self.steps = device, steps
        self.done = 0
        self.seconds = 0.0

    def step(self) -> None:
        """A step has ended."""
        self.done += 1
        if self.done not in (WARM_UP, self.steps):
            return
        if self.device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.done == WARM_UP:
            self.start = now
        else:
            self.seconds = (now - self.start) / (self.steps - WARM_UP)


class ClockCallback(Callback):
    """Keep a :class:`Clock`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the step's end."""
        self.clock.step()


def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    """A teacher and a student, the same for every contestant."""
    torch.manual_seed(0)
    return create_model("wrn_40_2", CLASSES), create_model("wrn_16_2", CLASSES)


class Contest:
    """The contestants on one machine with one batch size.

    Args:
        arguments: of the command.
        folder: for the teacher cache.
    """

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.device: str = arguments.device
        self.batch: int = arguments.batch
        self.workers: int = arguments.workers
        self.steps = arguments.steps + WARM_UP
        self.folder = folder
        self.data = self.images()
        self.data.setup("fit")
        self.pil = PILImages(self.data)

    def images(self, **settings: Any) -> Fake:
        """More than a turn trains on: worker processes that have prepared the last batch would sit idle."""
        return Fake(
            train_size=max(4 * self.batch * self.steps, CLASSES),
            test_size=CLASSES,
            num_classes=CLASSES,
            image_size=32,
            batch_size=self.batch,
            val_size=0,
            **settings,
        )

    def contestants(self, compiled: bool) -> dict[str, Turn]:
        """By name, in the table's order."""
        turns: dict[str, Turn] = {"reference": self.reference()}
        try:
            turns["torchdistill"] = self.torchdistill()
        except ImportError:
            print("torchdistill is not installed, (b) is left out: pip install torchdistill")
        turns["float32"] = self.ours("32-true")
        for compile_networks in (False, True) if compiled else (False,):
            mark = " compiled" if compile_networks else ""
            turns["auto" + mark] = self.ours("auto", compile_networks=compile_networks)
            turns["warm cache" + mark] = self.ours("auto", cache=True, compile_networks=compile_networks)
            turns["student alone" + mark] = self.ours("auto", alone=True, compile_networks=compile_networks)
        return turns

    def timed(self, steps: Iterator[Any]) -> float:
        """Seconds a step of a plain loop."""
        clock = Clock(self.device, self.steps)
        for _, _ in zip(range(self.steps), steps, strict=False):
            clock.step()
        return clock.seconds

    def reference(self) -> Turn:
        """(a), the published scripts' loop."""
        loop = ReferenceLoop(*networks(), self.device)
        return lambda: self.timed(loop.steps(loader_of(self.pil, self.batch, self.workers, self.device)))

    def torchdistill(self) -> Turn:
        """(b): its distillation box, as its examples use it."""
        from torchdistill.core.distillation import get_distillation_box

        loader = {
            "dataset_id": "train",
            "sampler": {"class_or_func": torch.utils.data.RandomSampler},
            "kwargs": {"batch_size": self.batch, "num_workers": self.workers, "drop_last": True},
        }
        kd = {
            "key": "KDLoss",
            "kwargs": {
                **{f"{role}_module_{what}": value for role in ("student", "teacher") for what, value in
                   (("path", "."), ("io", "output"))},
                "temperature": 4.0, "alpha": 0.1,
            },
        }  # fmt: skip
        config = {
            "num_epochs": 1,
            "train_data_loader": loader,
            "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
            "student": {"forward_proc": "forward_batch_only"},
            "optimizer": {"key": "SGD", "kwargs": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}},
            "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}}},
        }
        teacher, student = (network.to(self.device) for network in networks())
        box = get_distillation_box(
            teacher.eval(), student, {"train": _Pairs(self.pil)}, config, torch.device(self.device), None, False, 1
        )

        def steps() -> Iterator[None]:
            box.pre_epoch_process(epoch=0)
            for sample, targets, extra in box.train_data_loader:
                sample, targets = sample.to(self.device), targets.to(self.device)
                loss = box.forward_process(sample, targets, extra)
                box.post_forward_process(loss=loss)
                loss.item()  # its examples' meter
                yield

        return lambda: self.timed(steps())

    def ours(self, precision: str, *, cache: bool = False, alone: bool = False, compile_networks: bool = False) -> Turn:
        """(c) to (f): the module under Lightning's Trainer."""
        chosen = choose_precision(precision, self.device)
        channels_last = choose_channels_last("auto", self.device, chosen)
        teacher, student = networks()
        data = self.images(channels_last=channels_last)
        data.setup("fit")
        module: LightningModule
        if alone:
            module = ClassifierModule(student, channels_last=channels_last)
        else:
            module = DistillationModule(teacher, student, channels_last=channels_last)
        if cache and isinstance(module, DistillationModule):
            module.cache_teacher(data, self.folder, precision=str(chosen))
        if compile_networks:
            module.compile_networks() if isinstance(module, DistillationModule) else student.compile()

        def turn() -> float:
            clock = Clock(self.device, self.steps)
            callbacks = [ClockCallback(clock), CurriculumTemperatureCallback(ConstantCurriculum(1.0))]
            quiet_trainer(
                self.device,
                precision=chosen,
                max_epochs=1,
                limit_train_batches=self.steps,
                enable_progress_bar=False,
                callbacks=callbacks[: 1 if alone else 2],
            ).fit(module, datamodule=data)
            return clock.seconds

        return turn


class _Pairs(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """(image, target), without the index."""

    def __init__(self, images: PILImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index][:2]


def take_turns(turns: dict[str, Turn], rounds: int) -> dict[str, list[float]]:
    """Seconds a step of each contestant in each round; a first round warms up, fills the cache and is not kept."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    order = list(turns)
    for round_ in range(rounds + 1):
        random.Random(round_).shuffle(order)
        for name in order:
            measured = turns[name]()
            if round_:
                seconds[name].append(measured)
        print(f"round {round_} of {rounds}", flush=True)
    return seconds


def summarise(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(seconds: dict[str, list[float]], name: str, to: str) -> dict[str, float]:
    """How many times the speed of ``to`` a contestant has, paired by round."""
    return summarise([b / a for a, b in zip(seconds[name], seconds[to], strict=True)])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--workers", type=int, default=8, help="of (a) and (b); the scripts have 8")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    hush("torchdistill")
    torch.backends.cudnn.benchmark = True  # as the scripts do

    with tempfile.TemporaryDirectory() as folder:
        turns = Contest(arguments, Path(folder)).contestants(arguments.compile)
        seconds = take_turns(turns, arguments.rounds)
    results = {
        name: {
            "images_per_second": summarise([arguments.batch / s for s in values]),
            "seconds": values,
            "over_reference": ratios(seconds, name, "reference"),
            "over_student_alone": ratios(seconds, name, "student alone"),
        }
        for name, values in seconds.items()
    }
    about = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision of auto": choose_precision("auto", arguments.device),
        **describe_hardware(),
        **{key: value for key, value in vars(arguments).items() if key != "json"},
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"\n{'':24}{'images/s':>10}{'range':>16}{'× reference':>14}{'range':>14}{'× student alone':>17}")
    for name, result in results.items():
        rate, over, alone = result["images_per_second"], result["over_reference"], result["over_student_alone"]
        print(
            f"{name:24}{rate['median']:10.1f}{rate['min']:9.1f}–{rate['max']:<6.1f}{over['median']:14.2f}"
            f"{over['min']:9.2f}–{over['max']:<4.2f}{alone['median']:17.3f}"
        )
    if "torchdistill" in seconds:
        print(f"auto over torchdistill: {ratios(seconds, 'auto', 'torchdistill')['median']:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
