"""A table as the page shows it, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ctkd_lightning.reporting.statistics import LEVEL, Difference, spread

NONE = "–"


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: its first line.
        note: a second one, smaller.
        best: whether it stands out.
    """

    text: str
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: its heading.
        words: whether it holds words rather than numbers.
    """

    title: str
    words: bool = False


@dataclass
class Table:
    """A table, whose first column heads its rows.

    Attributes:
        name: its anchor.
        caption: what it shows, in a few words.
        columns: one or more.
        rows: as many cells each.
        groups: headings over the columns, each over so many of them; empty where there are none.
        words: how the numbers came about.
    """

    name: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    groups: list[tuple[str, int]] = field(default_factory=list)
    words: str = ""


def number(value: float | None, unit: str = "", digits: int = 2) -> str:
    """With so many decimals; a dash for none."""
    return NONE if value is None else f"{value:.{digits}f}{unit}"


def count(value: float | None) -> str:
    """A whole number with separators."""
    return NONE if value is None else f"{value:,.0f}"


def seconds(value: float | None) -> str:
    """A duration, in the unit that suits it.

    Example:
        >>> seconds(8), seconds(754), seconds(7600)
        ('8.0 s', '12 min 34 s', '2 h 06 min')
    """
    if value is None:
        return NONE
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02} min" if hours else f"{minutes} min {rest:02} s"


def mean_and_deviation(values: Iterable[float], digits: int = 2) -> str:
    """As ``91.00 ± 1.41``; a single value alone, and a dash for none."""
    values = list(values)
    if not values:
        return NONE
    found = spread(values)
    mean = number(found.mean, digits=digits)
    return mean if found.deviation is None else f"{mean} ± {found.deviation:.{digits}f}"


def difference(found: Difference, digits: int = 2) -> Cell:
    """As ``+0.30`` with its interval below, or why there is none."""
    mean = signed(found.mean, digits)
    if found.interval is not None:
        low, high = (signed(end, digits) for end in found.interval)
        return Cell(mean, f"{100 * LEVEL:.0f} %: {low} to {high}")
    return Cell(mean, "one seed: no interval" if found.n == 1 else "the same for each seed: no interval")


def signed(value: float, digits: int = 2) -> str:
    """With its sign, and a minus that is as wide as the plus."""
    return f"{value:+.{digits}f}".replace("-", "−")
