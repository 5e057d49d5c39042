"""Time and peak memory of the distillation loss, at once and in pieces.

    python -m benchmarks.loss [--device cuda] [--sizes 64x100 512x32000 4096x128000] [--rounds 7] [--json FILE]

Forward and backward of KD with a learned temperature, from logits to the gradients of student and temperature, in the
plain formulation and in the pieces that ``kd_loss`` takes for large logits; the two take turns. Memory is the peak
beyond the logits and the returned gradient, of a process of its own for each formulation.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ctkd_lightning.job.hardware import describe_hardware
from ctkd_lightning.methods.kd import divergence_at_once, divergence_in_pieces

FORMULATIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "plain": divergence_at_once,
    "pieces": divergence_in_pieces,
}


def inputs(size: str, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher logits, and a temperature."""
    shape = tuple(int(n) for n in size.split("x"))
    student, teacher = (torch.randn(shape, device=device) for _ in range(2))
    return student.requires_grad_(), teacher, torch.tensor(4.0, device=device, requires_grad=True)


def step(name: str, student: Tensor, teacher: Tensor, tau: Tensor) -> None:
    """Loss and gradients."""
    student.grad = tau.grad = None
    FORMULATIONS[name](student, teacher, tau).mean().backward()


def seconds(size: str, device: str, rounds: int) -> dict[str, list[float]]:
    """Of each formulation, by round; the first round warms up."""
    tensors = inputs(size, device)
    repeats = max(1, 2**21 // tensors[0].numel())
    found: dict[str, list[float]] = {name: [] for name in FORMULATIONS}
    for round_ in range(rounds + 1):
        for name in list(FORMULATIONS)[:: 1 if round_ % 2 else -1]:
            start = time.perf_counter()
            for _ in range(repeats):
                step(name, *tensors)
            if device == "cuda":
                torch.cuda.synchronize()
            if round_:
                found[name].append((time.perf_counter() - start) / repeats)
    return found


def peak(name: str, size: str, device: str) -> int:
    """Bytes beyond the logits and the gradient that the formulation holds at its peak, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.loss", "--device", device, "--sizes", size, "--peak-of", name]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(name: str, size: str, device: str) -> None:
    """The part of :func:`peak` that runs in the fresh process."""
    step(name, *inputs("2x3", device))  # libraries load
    tensors = inputs(size, device)
    returned = tensors[0].numel() * tensors[0].element_size()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(name, *tensors)
        print(torch.cuda.max_memory_allocated() - before - returned)
        return
    before = _peak_of_process()
    step(name, *tensors)
    print(_peak_of_process() - before - returned)


def _peak_of_process() -> int:
    """Resident bytes at their highest so far; Linux counts them in units of 1,024."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--sizes", nargs="+", default=["64x100", "64x1000", "256x10000", "512x32000", "4096x128000"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-of", choices=FORMULATIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        print_peak(arguments.peak_of, arguments.sizes[0], arguments.device)
        return

    about = {"torch": torch.__version__, "device": arguments.device, "threads": torch.get_num_threads()}
    about |= describe_hardware()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"\n{'logits':14}{'plain ms':>12}{'pieces ms':>12}{'ratio':>8}{'range':>14}{'plain MB':>12}{'pieces MB':>12}")
    results = {}
    for size in arguments.sizes:
        memory = {name: peak(name, size, arguments.device) for name in FORMULATIONS}
        times = seconds(size, arguments.device, arguments.rounds)
        ratio = [b / a for a, b in zip(times["plain"], times["pieces"], strict=True)]
        results[size] = {"seconds": times, "ratio": ratio, "peak_bytes": memory}
        plain, pieces = (1e3 * statistics.median(times[name]) for name in FORMULATIONS)
        print(
            f"{size:14}{plain:12.3f}{pieces:12.3f}{statistics.median(ratio):8.2f}{min(ratio):8.2f}–{max(ratio):<5.2f}"
            f"{memory['plain'] / 1e6:12.1f}{memory['pieces'] / 1e6:12.1f}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
