"""The closing table on the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from rich.console import Console
from rich.table import Table

from ctkd_lightning.job.measures import BEST, MEASURES, SAMPLES
from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.job.summary import RunSummary, Summary

NO_BREAK = "\u00a0"
_NAMES = 20  # the width of the names' column


def print_table(summary: Summary, run: RunDirectory) -> None:
    """Print the closing table."""
    table = Table(title=f"{summary.model} on {summary.data}, method {summary.method}", title_justify="left")
    measures = MEASURES[summary.task]
    for heading in ("", "network", "parameters", *(f"test {measure.title}" for measure in measures)):
        table.add_column(heading, justify="left" if heading in ("", "network") else "right")
    networks = (("teacher", summary.teacher), ("student", summary.student), ("student alone", summary.baseline))
    for role, network in networks:
        if network is None:
            continue
        numbers = (number(getattr(network, measure.name), measure.digits) for measure in measures)
        table.add_row(role, network.name, _count(network.parameters), *numbers)
    console = Console()
    console.print(table)
    print_lines(console, _lines(summary), run)


def _lines(summary: Summary) -> list[tuple[str, str]]:
    lines, final = [], summary.final
    temperature, curriculum = (
        f"{getattr(summary, group)}, no effect" if group in summary.without_effect else getattr(summary, group)
        for group in ("temperature", "curriculum")
    )
    tau = number(final.get("ctkd/temperature"))
    if "ctkd/temperature_std" in final:
        low, high, std = (number(final[f"ctkd/temperature_{key}"]) for key in ("min", "max", "std"))
        tau = f"{tau} ± {std}, from {low} to {high}"
    if "ctkd/lambda" in final:
        lines.append(("λ", f"{number(final['ctkd/lambda'])} ({curriculum})"))
    tau = temperatures(final) or tau
    lines.append(("τ", f"{tau} ({temperature})"))
    if summary.teacher_cache is not None:
        lines.append(("teacher cache", f"knew {100 * summary.teacher_cache:.1f} % of the views"))
    return lines + closing_lines(summary)


def print_lines(console: Console, lines: Sequence[tuple[str, str]], run: RunDirectory) -> None:
    """Print what a table has no place for, each under a name, in lines that the terminal has room for.

    Args:
        console: to print on.
        lines: names and texts; a no-break space in a text holds its two sides together.
        run: named in the end, its path in one piece.
    """
    wrapper = textwrap.TextWrapper(console.width - _NAMES, break_long_words=False, break_on_hyphens=False)
    wrapped = [(name, [part.replace(NO_BREAK, " ") for part in wrapper.wrap(text)]) for name, text in lines]
    for name, parts in [*wrapped, ("run", [str(run)])]:
        for label, part in zip_longest([name], parts, fillvalue=""):
            console.print(f"{label:{_NAMES}}{part}", highlight=False, markup=False, soft_wrap=True)


def temperatures(final: Mapping[str, float]) -> str:
    """Several τ in a line, each with its name; empty where there is one."""
    several = {name: value for name, value in final.items() if name.startswith("ctkd/temperature/")}
    named = [(name.rpartition("/")[2].rpartition(".")[2], value) for name, value in several.items()]
    return ", ".join(f"{number(value)}{NO_BREAK}{name}" for name, value in named)


def closing_lines(summary: RunSummary) -> list[tuple[str, str]]:
    """What every job says in the end: its best epoch, its speed, and how to go on where it was stopped."""
    lines = []
    best = summary.best
    for measure in BEST.values():
        if (value := getattr(best, measure.name)) is not None:
            text = f"{measure.label} {number(value, measure.digits)} {measure.unit}".rstrip()
            lines.append((f"best on {best.chosen_on}", f"{text} after epoch {best.epoch}"))
    rate = summary.images_per_second
    samples = SAMPLES[summary.task] if isinstance(summary, Summary) else "images"
    speed = f", {rate:,.0f} {samples}/s" if rate else ""
    lines.append(("training", f"{summary.epochs} epochs in {summary.train_seconds:,.0f} s{speed}"))
    if summary.saturated:
        names = ", ".join(
            "τ" + name.removeprefix("ctkd/temperature").replace("/", " of ") for name in summary.saturated
        )
        lines.append(("saturated", f"{names} at an end of its range: see tau_init, tau_range, and weight decay on it"))
    if summary.skipped_steps:
        lines.append(("skipped", f"{summary.skipped_steps} steps whose gradients were not finite"))
    if summary.status != "complete":
        stopped = f"{summary.status} in stage {summary.stage}"
        lines.append(("status", f"{stopped}; go on with the same settings, this run_dir and resume=auto"))
    return lines


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def number(value: float | None, digits: int = 2) -> str:
    """With so many decimals; a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}"
