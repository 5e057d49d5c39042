"""A picture into files, and into the page itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context

from ctkd_lightning.reporting.picture import Picture

_LARGEST_SVG = 150_000  # bytes; thousands of points make more than that, and a PNG is smaller then
_DPI = 160
_WITHOUT_DATE = {"svg": {"Date": None}, "png": {"Software": None}}  # the same picture is the same file


@dataclass(frozen=True)
class Drawn:
    """A picture that is on disk.

    Attributes:
        picture: its words.
        source: of the page's ``img``: the picture itself, as a data URI.
        least: pixels of width; what is narrower can be scrolled, so that its text stays legible.
        most: likewise.
    """

    picture: Picture
    source: str
    least: int
    most: int


def draw(pictures: Iterable[Picture], folder: Path) -> Iterator[Drawn]:
    """Write each as ``NAME.svg`` and ``NAME.png`` and clear its figure.

    Args:
        pictures: one after the other, so that one figure at a time is in memory.
        folder: that there is.

    Raises:
        OSError: the folder cannot be written.
    """
    for picture in pictures:
        figure, files = picture.figure, {}
        inches = float(figure.get_figwidth())
        with rc_context({"svg.hashsalt": picture.name}):
            for kind, metadata in _WITHOUT_DATE.items():
                files[kind] = folder / f"{picture.name}.{kind}"
                figure.savefig(files[kind], format=kind, dpi=_DPI, metadata=metadata)
                figure.set_layout_engine("none")  # the places that the first one found, which took a third of the time
        figure.clear()
        small = files["svg"].stat().st_size <= _LARGEST_SVG
        source = _data_uri(files["svg"], "svg+xml") if small else _data_uri(files["png"], "png")
        yield Drawn(picture, source, least=round(56 * inches), most=round(116 * inches))


def _data_uri(path: Path, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
