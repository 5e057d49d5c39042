"""Whether speed costs accuracy: the same distillation by the reference loop, by ours, and by ours with a teacher cache.

    python -m benchmarks.accuracy --root DIR --teacher FILE [--epochs 8] [--seeds 1 2] [--json FILE]
        [--mean 0.480 0.448 0.398] [--std 0.277 0.269 0.282] [--device cuda] [--limit-train 10000]

``--networks wrn_40_2 wrn_16_2`` on ``DIR/train`` and ``DIR/test``, a global temperature at full strength, SGD with the
rate divided by ten at 5/8, 6/8 and 7/8 of the epochs. Each run starts from the same student for the same seed and ends
with its test top-1. Runs that the JSON file already holds are not repeated, so an interrupted command can be started
again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

from lightning.pytorch import seed_everything
from torch import nn

from benchmarks.quiet import hush, quiet_trainer
from benchmarks.reference_loop import PILImages, ReferenceLoop, loader_of
from ctkd_lightning import CurriculumTemperatureCallback, DistillationModule
from ctkd_lightning.curriculum import ConstantCurriculum
from ctkd_lightning.data import ImageFolder
from ctkd_lightning.job.hardware import choose_channels_last, choose_precision
from ctkd_lightning.models import create_model, load_weights
from ctkd_lightning.modules.classifier import ClassifierModule
from ctkd_lightning.schedule import step_decay

LOOPS = ("reference", "auto", "cache")


def images(arguments: argparse.Namespace, seed: int, channels_last: bool = False) -> ImageFolder:
    """The folder, all training images in use."""
    data = ImageFolder(
        arguments.root,
        mean=arguments.mean,
        std=arguments.std,
        batch_size=arguments.batch,
        val_size=0,
        limit_train=arguments.limit_train,
        seed=seed,
        channels_last=channels_last,
    )
    data.setup()
    return data


def train_reference(teacher: nn.Module, student: nn.Module, data: ImageFolder, arguments: argparse.Namespace) -> None:
    """(a) of ``benchmarks.throughput``."""
    loop = ReferenceLoop(teacher, student, arguments.device)
    scheduler = step_decay(loop.optimizer, arguments.epochs)
    batches = loader_of(PILImages(data), data.batch_size, 8, arguments.device)
    for epoch in range(arguments.epochs):
        for _ in loop.steps(batches):
            pass
        scheduler.step()
        print(f"reference: epoch {epoch + 1} of {arguments.epochs}", flush=True)


def train_ours(
    teacher: nn.Module, student: nn.Module, data: ImageFolder, arguments: argparse.Namespace, cache: bool
) -> None:
    """(d) or (e)."""
    precision = choose_precision("auto", arguments.device)
    module = DistillationModule(
        teacher,
        student,
        scheduler=partial(step_decay, max_epochs=arguments.epochs),
        channels_last=data.channels_last,
    )
    if cache:
        cached = module.cache_teacher(data, arguments.cache_dir, precision=str(precision))
    quiet_trainer(
        arguments.device,
        precision=precision,
        max_epochs=arguments.epochs,
        callbacks=[CurriculumTemperatureCallback(ConstantCurriculum(1.0))],
    ).fit(module, datamodule=data)
    if cache:
        print(f"the cache knew {cached.known} of {cached.asked} views")


def run(loop: str, seed: int, arguments: argparse.Namespace) -> float:
    """Test top-1, percent."""
    seed_everything(seed, verbose=False)
    channels_last = loop != "reference" and choose_channels_last(
        "auto", arguments.device, choose_precision("auto", arguments.device)
    )
    data = images(arguments, seed, channels_last)
    teacher, student = (create_model(name, data.num_classes) for name in arguments.networks)
    load_weights(teacher, arguments.teacher)
    if loop == "reference":
        train_reference(teacher, student, data, arguments)
    else:
        train_ours(teacher, student, data, arguments, cache=loop == "cache")
    (metrics,) = quiet_trainer(arguments.device).test(ClassifierModule(student), datamodule=data, verbose=False)
    return float(metrics["test/top1"])


def main() -> None:
    """Train, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--networks", nargs=2, default=["wrn_40_2", "wrn_16_2"], metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=LOOPS)
    parser.add_argument("--mean", type=float, nargs=3, default=[0.480, 0.448, 0.398])
    parser.add_argument("--std", type=float, nargs=3, default=[0.277, 0.269, 0.282])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--limit-train", type=int)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--cache-dir", default="~/.cache/ctkd_lightning/teacher_outputs")
    parser.add_argument("--json", type=Path, default=Path("accuracy.json"))
    arguments = parser.parse_args()
    hush()

    found: dict[str, float] = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    about = f"{' to '.join(arguments.networks)} epochs {arguments.epochs} limit {arguments.limit_train}"
    for seed in arguments.seeds:
        for loop in arguments.loops:
            key = f"{loop} {about} seed {seed}"
            if key not in found:
                found[key] = run(loop, seed, arguments)
                arguments.json.write_text(json.dumps(found, indent=2) + "\n")
            print(f"{key}: {found[key]:.2f} %", flush=True)
    for loop in arguments.loops:
        values = [found[f"{loop} {about} seed {seed}"] for seed in arguments.seeds]
        print(f"{loop:12} mean {statistics.mean(values):.2f} %, from {min(values):.2f} to {max(values):.2f}")


if __name__ == "__main__":
    main()
