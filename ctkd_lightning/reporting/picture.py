"""A figure with the words that go with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Picture:
    """A figure of the page.

    Attributes:
        name: of its files, ``NAME.svg`` and ``NAME.png``.
        title: a few words, its heading on the page.
        caption: what is drawn, and how it was measured.
        alt: what a reader sees who cannot see it: the picture's message in numbers.
        figure: closed once it is written.
        section: of the page, as in :mod:`ctkd_lightning.reporting.page`.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    section: str
