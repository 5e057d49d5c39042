"""The closing table of a fusion on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.job.summary import FusionSummary
from ctkd_lightning.job.table import NO_BREAK, closing_lines, number, print_lines, temperatures

_PLAIN = ("product", "average")


def print_fusion_table(summary: FusionSummary, run: RunDirectory) -> None:
    """Print accuracies by condition: fused, plain fusions of the same scores, each modality alone."""
    console = Console()
    console.print(f"{len(summary.modalities)} modalities of {summary.data}, test top-1 %", style="italic")
    for conditions in _that_fit(summary, console):
        console.print(_table(summary, conditions))
    print_lines(console, [*_temperature_lines(summary), *closing_lines(summary)], run)


def _that_fit(summary: FusionSummary, console: Console) -> Iterator[Sequence[str]]:
    """The conditions, in as few tables of about equal size as the terminal has room for."""
    conditions = list(summary.conditions)
    for count in range(len(conditions), 0, -1):
        size = math.ceil(len(conditions) / math.ceil(len(conditions) / count))
        parts = [conditions[start : start + size] for start in range(0, len(conditions), size)]
        if count == 1 or all(_width(_table(summary, part), console) <= console.width for part in parts):
            yield from parts
            return


def _width(table: Table, console: Console) -> int:
    """How wide it is where nothing is cut."""
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum


def _table(summary: FusionSummary, conditions: Sequence[str]) -> Table:
    table = Table()
    table.add_column("")
    for condition in conditions:
        table.add_column(condition, justify="right")
    found = [summary.conditions[condition] for condition in conditions]
    first = next(iter(summary.conditions.values()))
    alone = [name for name in first if name not in ("fused", *_PLAIN) and "/" not in name]
    for name in ("fused", *_PLAIN, *alone):
        numbers = [number(accuracies.get(name)) for accuracies in found]
        table.add_row(f"{name} alone" if name in alone else name, *numbers, end_section=name == _PLAIN[-1])
    told = [[value for name, value in numbers.items() if name.startswith("auroc/")] for numbers in found]
    if any(told):
        table.add_section()
        table.add_row("AUROC of τ", *(number(sum(areas) / len(areas) if areas else None) for areas in told))
    return table


def _temperature_lines(summary: FusionSummary) -> list[tuple[str, str]]:
    lines = []
    final = summary.final
    if "ctkd/lambda" in final and "curriculum" not in summary.without_effect:
        lines.append(("λ", f"{number(final['ctkd/lambda'])} ({summary.curriculum})"))
    if tau := temperatures(final):
        lines.append(("τ", f"{tau} ({summary.fusion})"))
    if summary.fitted is not None:
        fitted = ", ".join(f"{number(value)}{NO_BREAK}{name}" for name, value in summary.fitted.items())
        lines.append(("τ, fitted factors", fitted))
    if summary.student is not None:
        distilled, alone = (number(summary.student.get(key)) for key in ("distilled", "alone"))
        lines.append(("student", f"test top-1 {distilled} % distilled from the fusion, {alone} % alone"))
    return lines
