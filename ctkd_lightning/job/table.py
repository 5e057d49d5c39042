"""The closing table on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.job.summary import Summary


def print_table(summary: Summary, run: RunDirectory) -> None:
    """Print the closing table."""
    table = Table(title=f"{summary.model} on {summary.data}, method {summary.method}", title_justify="left")
    for heading in ("", "network", "parameters", "test top-1 %", "test top-5 %"):
        table.add_column(heading, justify="left" if heading in ("", "network") else "right")
    for role, network in (("teacher", summary.teacher), ("student", summary.student)):
        table.add_row(role, network.name, _count(network.parameters), _number(network.top1), _number(network.top5))
    console = Console()
    console.print(table)
    for name, text in _lines(summary):
        console.print(f"{name:19} {text}", highlight=False, soft_wrap=True)
    console.print(f"{'run':19} {run}", highlight=False, soft_wrap=True)


def _lines(summary: Summary) -> list[tuple[str, str]]:
    lines, final = [], summary.final
    temperature, curriculum = (
        f"{getattr(summary, group)}, no effect" if group in summary.without_effect else getattr(summary, group)
        for group in ("temperature", "curriculum")
    )
    tau = _number(final.get("ctkd/temperature"))
    if "ctkd/temperature_std" in final:
        low, high, std = (_number(final[f"ctkd/temperature_{key}"]) for key in ("min", "max", "std"))
        tau = f"{tau} ± {std}, from {low} to {high} over the samples"
    if "ctkd/lambda" in final:
        lines.append(("λ", f"{_number(final['ctkd/lambda'])} ({curriculum})"))
    several = {k: v for k, v in final.items() if k.startswith("ctkd/temperature/")}
    if several:
        tau = ", ".join(f"{_number(value)} {name.rpartition('.')[2]}" for name, value in several.items())
    lines.append(("τ", f"{tau} ({temperature})"))
    best = summary.best
    if best.top1 is not None:
        lines.append((f"best on {best.chosen_on}", f"top-1 {_number(best.top1)} % after epoch {best.epoch}"))
    if summary.teacher_cache is not None:
        lines.append(("teacher cache", f"knew {100 * summary.teacher_cache:.1f} % of the views"))
    rate = summary.images_per_second
    speed = f", {rate:,.0f} images/s" if rate else ""
    lines.append(("training", f"{summary.epochs} epochs in {summary.train_seconds:,.0f} s{speed}"))
    if summary.status != "complete":
        stopped = f"{summary.status} in stage {summary.stage}"
        lines.append(("status", f"{stopped}; go on with the same settings, this run_dir and resume=auto"))
    return lines


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
