"""An evaluation on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from ctkd_lightning._words import cpu_threads
from ctkd_lightning.job.evaluation_summary import Evaluation, NetworkEvaluation
from ctkd_lightning.job.quality import BINS, percent

_ALONE = {"baseline": "student alone"}


def print_evaluation(found: Evaluation, title: str, path: Path | None) -> None:
    """Print an evaluation, a column a network.

    Args:
        found: the evaluation.
        title: what was evaluated.
        path: the file that it is in.
    """
    table = Table()
    table.add_column("")
    for role, network in found.networks.items():
        table.add_column(f"{_ALONE.get(role, role)}\n{escape(network.name)}", justify="right", overflow="fold")
    columns = [_cells(network, found.batch_size) for network in found.networks.values()]
    longest = max(columns, key=len)  # the others are without a comparison
    for name in longest:
        cells = [column.get(name, "–") for column in columns]
        table.add_row(name, *cells, end_section=name in ("Brier score", "KL from teacher, τ = 1", "weights' file"))
    console = Console()
    console.print(f"{title} on {found.data}", style="italic", highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    for name, text in _lines(found, path):
        console.print(f"{name:19} {text}", highlight=False, markup=False, soft_wrap=True)


def _cells(network: NetworkEvaluation, batch_size: int) -> dict[str, str]:
    """Those of a network, by the names of their rows."""
    quality, agreement, cost = network.quality, network.agreement, network.cost
    cells = {
        "top-1 %": _number(quality.top1),
        "top-5 %": _number(quality.top5),
        "NLL": _number(quality.nll, 4),
        f"ECE %, {BINS} bins": _number(percent(quality.ece)),
        "Brier score": _number(quality.brier, 4),
    }
    if agreement is not None:
        cells["guesses as teacher %"] = _number(agreement.top1)
        cells["KL from teacher, τ = 1"] = _number(agreement.kl, 4)
    cells |= {
        "parameters": f"{cost.parameters:,}",
        "multiply-adds": _scaled(cost.macs),
        "weights' file": decimal(cost.weights_bytes),
    }
    if cost.latency_ms is not None:
        cells["ms, 1 image"] = _number(cost.latency_ms)
        cells[f"images/s, {batch_size} at once"] = _number(cost.images_per_second, 0)
    return cells


def _lines(found: Evaluation, path: Path | None) -> list[tuple[str, str]]:
    how = "computed now, in float32" if found.outputs == "computed" else "as the run kept them, in float16"
    lines = [("test samples", f"{found.samples:,}; outputs {how}")]
    if any(network.cost.latency_ms is not None for network in found.networks.values()):
        device = cpu_threads(found.threads) if found.device == "cpu" else found.device
        layout = ", channels-last" if found.channels_last else ""
        lines.append(("times", f"medians on {device} in float32{layout}, after a warm-up"))
    return lines if path is None else [*lines, ("written to", str(path))]


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _scaled(count: int) -> str:
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if count >= 10**power:
            return f"{count / 10**power:.2f} {letter}"
    return str(count)
