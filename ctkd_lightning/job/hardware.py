"""What this machine is, and what it is fast with."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch


def accelerator_in_use(requested: str) -> str:
    """``"cuda"``, ``"cpu"`` or another: what a Trainer's ``accelerator`` setting comes to on this machine."""
    if requested in ("auto", "gpu"):
        if torch.cuda.is_available():
            return "cuda"
        if torch.backends.mps.is_available():
            return "mps"
        return "cpu" if requested == "auto" else requested
    return requested


def multiplies_bf16(accelerator: str) -> bool:
    """Whether the hardware trains faster in bf16 than in float32.

    GPUs from Ampere on; CPUs with AMX, and AMD's with AVX-512 bf16. Intel's AVX-512 bf16 without AMX runs at no higher
    rate than float32 (measured: a WRN-16-2 step takes 1.4 times as long), and emulation is slower still.
    """
    if accelerator == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8
    if accelerator == "cpu":
        flags = _cpu_info("flags").split()
        return "amx_bf16" in flags or ("avx512_bf16" in flags and _cpu_info("vendor_id") == "AuthenticAMD")
    return False


def choose_precision(requested: str | int, accelerator: str) -> str | int:
    """A Trainer's precision; ``"auto"`` is ``"bf16-mixed"`` where the hardware multiplies bf16, else ``"32-true"``."""
    if requested != "auto":
        return requested
    return "bf16-mixed" if multiplies_bf16(accelerator) else "32-true"


def choose_channels_last(requested: str | bool, accelerator: str, precision: str | int) -> bool:
    """Whether to lay images out channels-last; ``"auto"``: on CPUs, and on GPUs in half precision."""
    if requested != "auto":
        return bool(requested)
    return accelerator == "cpu" or (accelerator == "cuda" and "16" in str(precision))


def describe_hardware() -> dict[str, str | int]:
    """Processor, cores and GPUs, for a run's summary."""
    hardware: dict[str, str | int] = {"processor": _processor(), "cores": os.cpu_count() or 1}
    if torch.cuda.is_available():
        hardware["gpu"] = torch.cuda.get_device_name()
        hardware["gpus"] = torch.cuda.device_count()
    return hardware


def _processor() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(key: str) -> str:
    """What Linux says of the first processor; empty elsewhere."""
    try:
        found = re.search(rf"^{key}\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    except OSError:
        return ""
    return found[1].strip() if found else ""
