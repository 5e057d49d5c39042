"""Time and peak memory of the distillation loss, of logits and of linear heads.

    python -m benchmarks.loss [--device cuda] [--sizes 64x100 512x32000 4096x256x32000] [--rounds 7] [--json FILE]

Forward and backward of KD with a learned temperature; the formulations take turns. A size of two numbers is samples and
classes, from logits to the gradients of student and temperature: the plain formulation, and the pieces that ``kd_loss``
takes for large logits. One of three is tokens, hidden width and vocabulary, from hidden states and heads to the
gradients of the student's and of the temperature: plain logits and the plain formulation, plain logits and ``kd_loss``,
``linear_kd_loss``, and Liger-Kernel's chunked loss where it is installed (at a fixed temperature: it learns none).
Memory is the peak beyond the inputs and the returned gradients, of a process of its own for each formulation.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ctkd_lightning.job.hardware import describe_hardware
from ctkd_lightning.methods import kd_loss, linear_kd_loss
from ctkd_lightning.methods.kd import divergence_at_once, divergence_in_pieces
from ctkd_lightning.temperature import Softening

Loss = Callable[..., Tensor]

TAU = 4.0


def plain(student: Tensor, teacher: Tensor, tau: Tensor) -> Tensor:
    """All rows together, by autograd."""
    return divergence_at_once(student, teacher, Softening.at(tau, student)).mean()


def in_pieces(student: Tensor, teacher: Tensor, tau: Tensor) -> Tensor:
    """Some rows at a time."""
    return divergence_in_pieces(student, teacher, tau).mean()


def of_heads(loss: Loss) -> Loss:
    """A loss of logits, from hidden states and heads."""

    def of_logits(hidden: Tensor, weight: Tensor, teacher: Tensor, teacher_weight: Tensor, tau: Tensor) -> Tensor:
        return loss(F.linear(hidden, weight), F.linear(teacher, teacher_weight), tau)

    return of_logits


def linear(hidden: Tensor, weight: Tensor, teacher: Tensor, teacher_weight: Tensor, tau: Tensor) -> Tensor:
    """Without the logits."""
    return linear_kd_loss(hidden, weight, tau, teacher_hidden=teacher, teacher_weight=teacher_weight)


def liger(hidden: Tensor, weight: Tensor, teacher: Tensor, teacher_weight: Tensor, tau: Tensor) -> Tensor:
    """Liger-Kernel's divergence alone, at a fixed τ and without its square."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    labels = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
    loss = LigerFusedLinearJSDLoss(0.0, 1.0, beta=0.0, temperature=TAU, compiled=False, chunk_size=256)
    found: Tensor = loss(hidden, weight, teacher, teacher_weight, labels)
    return TAU**2 * found


OF_LOGITS: dict[str, Loss] = {"plain": plain, "pieces": in_pieces}
OF_HEADS: dict[str, Loss] = {"plain": of_heads(plain), "kd_loss": of_heads(kd_loss), "linear_kd_loss": linear}
if importlib.util.find_spec("liger_kernel"):
    OF_HEADS["liger"] = liger


def formulations(size: str) -> dict[str, Loss]:
    """Those of logits, or of heads where the size has three numbers."""
    return OF_HEADS if size.count("x") == 2 else OF_LOGITS


def inputs(size: str, device: str) -> list[Tensor]:
    """The student's and the teacher's logits, or hidden states and heads, and a temperature."""
    count, *hidden, classes = (int(n) for n in size.split("x"))
    shapes = [(count, hidden[0]), (classes, hidden[0])] if hidden else [(count, classes)]
    student, teacher = ([torch.randn(shape, device=device) for shape in shapes] for _ in range(2))
    for _, *weight in (student, teacher):
        for x in weight:
            x /= x.shape[1] ** 0.5  # logits of variance 1
    tau = torch.tensor(TAU, device=device)
    return [*(x.requires_grad_() for x in student), *teacher, tau.requires_grad_()]


def step(loss: Loss, tensors: list[Tensor]) -> None:
    """Loss and gradients."""
    for x in tensors:
        x.grad = None
    loss(*tensors).backward()


def seconds(size: str, device: str, rounds: int) -> dict[str, list[float]]:
    """Of each formulation, by round; the first round warms up."""
    tensors = inputs(size, device)
    losses = list(formulations(size).items())
    repeats = max(1, 2**21 // sum(x.numel() for x in tensors))
    found: dict[str, list[float]] = {name: [] for name, _ in losses}
    for round_ in range(rounds + 1):
        for name, loss in losses[:: 1 if round_ % 2 else -1]:
            start = time.perf_counter()
            for _ in range(repeats):
                step(loss, tensors)
            if device == "cuda":
                torch.cuda.synchronize()
            if round_:
                found[name].append((time.perf_counter() - start) / repeats)
    return found


def peak(name: str, size: str, device: str) -> int:
    """Bytes beyond the inputs and the gradients that the formulation holds at its peak, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.loss", "--device", device, "--sizes", size, "--peak-of", name]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(name: str, size: str, device: str) -> None:
    """The part of :func:`peak` that runs in the fresh process."""
    loss = formulations(size)[name]
    step(loss, inputs("x".join("234"[: size.count("x") + 1]), device))  # libraries load
    tensors = inputs(size, device)
    returned = sum(x.numel() * x.element_size() for x in tensors if x.requires_grad)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(loss, tensors)
        print(torch.cuda.max_memory_allocated() - before - returned)
        return
    before = _peak_of_process()
    step(loss, tensors)
    print(_peak_of_process() - before - returned)


def _peak_of_process() -> int:
    """Resident bytes at their highest so far, on Linux; ``getrusage`` would count those of the parent process too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    sizes = ["64x100", "64x1000", "256x10000", "512x32000", "4096x128000", "4096x256x32000"]
    parser.add_argument("--sizes", nargs="+", default=sizes)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-of", choices=OF_LOGITS | OF_HEADS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        print_peak(arguments.peak_of, arguments.sizes[0], arguments.device)
        return

    about = {"torch": torch.__version__, "device": arguments.device, "threads": torch.get_num_threads()}
    about |= describe_hardware()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"\n{'size':18}{'formulation':16}{'ms':>12}{'of plain':>10}{'range':>14}{'peak MB':>12}")
    results = {}
    for size in arguments.sizes:
        memory = {name: peak(name, size, arguments.device) for name in formulations(size)}
        times = seconds(size, arguments.device, arguments.rounds)
        ratios = {name: [b / a for a, b in zip(times["plain"], of, strict=True)] for name, of in times.items()}
        results[size] = {"seconds": times, "ratio": ratios, "peak_bytes": memory}
        for name, ratio in ratios.items():
            print(
                f"{size:18}{name:16}{1e3 * statistics.median(times[name]):12.3f}{statistics.median(ratio):10.2f}"
                f"{min(ratio):8.2f}–{max(ratio):<5.2f}{memory[name] / 1e6:12.1f}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
