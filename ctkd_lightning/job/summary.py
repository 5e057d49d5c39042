"""What a run came to: ``summary.json`` and the closing table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from ctkd_lightning.job.hardware import describe_hardware

Summary = dict[str, Any]


def describe_environment() -> Summary:
    """Versions, the working directory's git commit, and hardware."""
    packages = ("ctkd-lightning", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core")
    versions = {"python": sys.version.split()[0], **{name: _version(name) for name in packages}}
    return {"versions": versions, "git": _git_commit(), "hardware": describe_hardware()}


def parameters_of(network: nn.Module) -> int:
    """Number of a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def read_summary(run_dir: Path) -> Summary:
    """What an earlier part of a run has written; nothing where it had no time to."""
    try:
        summary: Summary = json.loads((run_dir / "summary.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return summary


def write_summary(summary: Mapping[str, Any], run_dir: Path) -> None:
    """Write ``summary.json`` into the run directory."""
    (run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def print_table(summary: Mapping[str, Any], run_dir: Path) -> None:
    """Print the closing table on the terminal."""
    table = Table(title=f"{summary['model']} on {summary['data']}, method {summary['method']}", title_justify="left")
    for heading in ("", "network", "parameters", "test top-1 %", "test top-5 %"):
        table.add_column(heading, justify="left" if heading in ("", "network") else "right")
    for role in ("teacher", "student"):
        network = summary[role]
        table.add_row(
            role, network["name"], _count(network["parameters"]), _number(network["top1"]), _number(network["top5"])
        )
    console = Console()
    console.print(table)
    for name, text in _lines(summary):
        console.print(f"{name:19} {text}", highlight=False, soft_wrap=True)
    console.print(f"{'run':19} {run_dir}", highlight=False, soft_wrap=True)


def _lines(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    final = summary["final"]
    lines = []
    tau = _number(final.get("ctkd/temperature"))
    if "ctkd/temperature_std" in final:
        low, high, std = (_number(final[f"ctkd/temperature_{key}"]) for key in ("min", "max", "std"))
        tau = f"{tau} ± {std}, from {low} to {high} over the samples"
    if "ctkd/lambda" in final:
        lines.append(("λ", f"{_number(final['ctkd/lambda'])} ({summary['curriculum']})"))
    several = {k: v for k, v in final.items() if k.startswith("ctkd/temperature/")}
    if several:
        tau = ", ".join(f"{_number(value)} {name.rpartition('.')[2]}" for name, value in several.items())
    lines.append(("τ", f"{tau} ({summary['temperature']})"))
    best = summary["best"]
    if best["top1"] is not None:
        lines.append((best["chosen_on"], f"top-1 {_number(best['top1'])} % after epoch {best['epoch']}"))
    if summary["teacher_cache"] is not None:
        lines.append(("teacher cache", f"knew {100 * summary['teacher_cache']:.1f} % of the views"))
    rate = summary["images_per_second"]
    speed = f", {rate:,.0f} images/s" if rate else ""
    lines.append(("training", f"{summary['epochs']} epochs in {summary['train_seconds']:,.0f} s{speed}"))
    if summary["status"] != "complete":
        lines.append(("status", f"{summary['status']}; go on with resume=auto and the same run_dir"))
    return lines


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that is not installed
        return None


def _git_commit() -> str | None:
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return git.stdout.strip() or None
