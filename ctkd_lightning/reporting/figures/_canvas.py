"""How all figures look: narrow enough for a phone, legible on white and on black, told apart without colour vision."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ctkd_lightning.reporting.figures._words import class_name

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.lines import Line2D

WIDTH = 5.2
"""Inches: on a screen of 390 pixels the text is then drawn at four fifths of its size."""

GREY = "#777777"
"""Text and axes: a contrast of more than 4 to white and to near-black alike."""

ARM_COLOURS = ("#0077bb", "#ee7733", "#009988", "#ee3377", "#33bbee", "#cc3311")
"""Paul Tol's "vibrant", for all kinds of colour vision; https://personal.sron.nl/~pault."""

CLASS_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"
)  # fmt: skip
"""Matthew Petroff's ten, likewise; https://arxiv.org/abs/2107.02270."""

ARM_LINES = ("-", "--")
ALONE_COLOUR, TEACHER_COLOUR = "#aa9922", GREY
WRONG_COLOUR = "#cc3311"

_WIDE = 8.0  # times the least τ: from there on a logarithmic axis
_LINE, _HANDLE = 62, 6  # letters of a line, and of what is before a label
_LINE_HEIGHT, _LEGEND_LINES = 0.22, 2  # inches, and lines that figures have room for
_PANEL_LINE = 28  # letters of a title over one of two panels
_FONT = "DejaVu Sans"  # Matplotlib brings it, so that a picture is the same everywhere
_STYLE: Any = {
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": _FONT,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "lines.linewidth": 2,
    "lines.markersize": 4,
}


def style() -> AbstractContextManager[None]:
    """The settings under which a figure is made."""
    return rc_context(_STYLE)


def canvas(
    height: float, rows: int = 1, columns: int = 1, h_pad: float = 0.04, **settings: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of the common width that no state knows of.

    Args:
        height: inches.
        rows: of its axes.
        columns: likewise.
        h_pad: inches above and below each row.
        **settings: of :meth:`matplotlib.figure.Figure.subplots`.

    Returns:
        The figure, and its axes row by row.
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    layout: Any = figure.get_layout_engine()
    layout.set(h_pad=h_pad)
    grid = figure.subplots(rows, columns, squeeze=False, **settings).ravel().tolist()
    for axes in grid:  # ticks are made late, outside the style
        axes.tick_params(which="both", color=GREY, labelcolor=GREY, labelsize=9)
    return figure, grid


def bare(axes: Axes) -> None:
    """Neither ticks nor frame."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def epoch_axis(axes: Axes) -> None:
    """Whole epochs."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def wide_axis(axis: Axis, values: Iterable[float]) -> None:
    """A logarithmic axis where the positive values span much, its ticks written as plain numbers."""
    known = np.array([value for value in values if np.isfinite(value) and value > 0])
    if not len(known) or known.max() < _WIDE * known.min():
        formatter: Any = axis.get_major_formatter()
        formatter.set_useOffset(False)
        return
    axis._set_axes_scale("log")  # type: ignore[attr-defined]
    few = known.max() < 100 * known.min()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def colour_bar(figure: Figure, image: Any, axes: Any, label: str, **settings: Any) -> None:
    """What an image's colours stand for.

    Args:
        figure: of the image.
        image: likewise.
        axes: beside which it stands.
        label: of its values.
        **settings: of :meth:`matplotlib.figure.Figure.colorbar`.
    """
    ticks = None if isinstance(image.norm, LogNorm) else MaxNLocator(5)
    bar = figure.colorbar(image, ax=axes, label=label, ticks=ticks, **settings)
    bar.ax.minorticks_off()
    bar.ax.tick_params(color=GREY, labelcolor=GREY, labelsize=9)
    outline: Any = bar.outline
    outline.set_visible(False)


def legend(figure: Figure, handles: Iterable[Line2D]) -> None:
    """One legend for all axes, below them, each label once, in as many columns as there is room for.

    A long one makes the figure higher, not the axes lower.
    """
    named = {str(handle.get_label()): handle for handle in handles}
    longest = max(len(line) for label in named for line in label.splitlines())
    columns = min(max(1, _LINE // (longest + _HANDLE)), len(named))
    lines = math.ceil(sum(label.count("\n") + 1 for label in named) / columns)
    figure.set_figheight(figure.get_figheight() + _LINE_HEIGHT * max(0, lines - _LEGEND_LINES))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns)


def literal(text: str, most: int = 40) -> str:
    """A text as it stands, no formula in it, cut where it is long; ``?`` for letters that the font has not."""
    short = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(letter if letter.isspace() or drawable(letter) else "?" for letter in short).replace("$", r"\$")


def wrapped(text: str, line: int = _LINE - _HANDLE) -> str:
    """A text as it stands, however long, in lines of so many letters, a number in one of them."""
    unbroken = text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")
    return "\n".join(literal(part, line) for part in textwrap.wrap(unbroken, line))


def panel_title(name: str, words: str = "") -> str:
    """Over one of two panels beside each other: a name, and a line of words below it."""
    return "\n".join(filter(None, (wrapped(name, _PANEL_LINE), words)))


def title_room(titles: Iterable[str]) -> float:
    """Inches of a row of panels beyond what titles of two lines take."""
    return _LINE_HEIGHT * max(0, max(title.count("\n") for title in titles) - 1)


def class_label(names: Sequence[str], number: int, most: int) -> str:
    """The name of a class, cut where it is long; its number where the font has not all letters of the name."""
    name = class_name(names, number)
    return literal(name if drawable(name) else str(number), most)


def drawable(text: str) -> bool:
    """Whether the font has all of a text's letters."""
    font = get_font(findfont(_FONT))
    return all(font.get_char_index(ord(letter)) for letter in text)
