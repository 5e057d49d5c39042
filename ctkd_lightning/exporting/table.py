"""What an export came to, on the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from ctkd_lightning._words import cpu_threads
from ctkd_lightning.models import StudentDescription


@dataclass(frozen=True)
class Row:
    """The student in one form.

    Attributes:
        name: of the form.
        size: of its file, bytes.
        top1: accuracy on the test images, percent.
        difference: the greatest of its logits from the original's.
        milliseconds: for one image.
    """

    name: str
    size: int
    top1: float
    difference: float
    milliseconds: float


def print_table(rows: list[Row], description: StudentDescription, output: Path, images: int) -> None:
    """Print the forms of the student, the original first, and where the last of them lies."""
    table = Table(title=f"{escape(description.network)} on {images:,} test images", title_justify="left")
    table.add_column("")
    for heading in ("size", "top-1 %", "greatest difference", "ms an image"):
        table.add_column(heading, justify="right")
    for row in rows:
        difference = "–" if row is rows[0] else f"{row.difference:.1e}"
        table.add_row(row.name, decimal(row.size), f"{row.top1:.2f}", difference, f"{row.milliseconds:.2f}")
    console = Console()
    console.print(table)
    for name, text in (
        ("input", description.input),
        ("time", f"median, batch 1, {cpu_threads(torch.get_num_threads())}"),
        ("file", str(output)),
    ):
        console.print(f"{name:19} {text}", highlight=False, markup=False, soft_wrap=True)
