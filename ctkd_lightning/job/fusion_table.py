"""The closing table of a fusion on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.job.summary import FusionSummary
from ctkd_lightning.job.table import closing_lines, number, temperatures

_PLAIN = ("product", "average")


def print_fusion_table(summary: FusionSummary, run: RunDirectory) -> None:
    """Print accuracies by condition: fused, plain fusions of the same scores, each modality alone."""
    table = Table(title=f"{len(summary.modalities)} modalities of {summary.data}, test top-1 %", title_justify="left")
    table.add_column("")
    for condition in summary.conditions:
        table.add_column(condition, justify="right")
    first = next(iter(summary.conditions.values()), {})
    alone = [name for name in first if name not in ("fused", *_PLAIN) and "/" not in name]
    for name in ("fused", *_PLAIN, *alone):
        numbers = [number(found.get(name)) for found in summary.conditions.values()]
        table.add_row(f"{name} alone" if name in alone else name, *numbers, end_section=name == _PLAIN[-1])
    told = [[v for n, v in found.items() if n.startswith("auroc/")] for found in summary.conditions.values()]
    if any(told):
        table.add_section()
        table.add_row("AUROC of τ", *(number(sum(found) / len(found)) if found else number(None) for found in told))
    console = Console()
    console.print(table)
    lines = [*_temperature_lines(summary), *closing_lines(summary)]
    for name, text in [*lines, ("run", str(run))]:
        console.print(f"{name:19} {text}", highlight=False, soft_wrap=True)


def _temperature_lines(summary: FusionSummary) -> list[tuple[str, str]]:
    lines = []
    final = summary.final
    if "ctkd/lambda" in final and "curriculum" not in summary.without_effect:
        lines.append(("λ", f"{number(final['ctkd/lambda'])} ({summary.curriculum})"))
    if tau := temperatures(final):
        lines.append(("τ", f"{tau} ({summary.fusion})"))
    if summary.fitted is not None:
        fitted = ", ".join(f"{number(value)} {name}" for name, value in summary.fitted.items())
        lines.append(("factors of τ, fitted", fitted))
    if summary.student is not None:
        distilled, alone = (number(summary.student.get(key)) for key in ("distilled", "alone"))
        lines.append(("student", f"test top-1 {distilled} % distilled from the fusion, {alone} % alone"))
    return lines
