"""Images that are no images, or far larger than their files."""

import io
import os
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ctkd_lightning.data._image_files import FORMATS

GHOSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 16 16
(CANARY) (w) file closefile
showpage
%%EOF
"""


def encoded(format: str, size: tuple[int, int] = (16, 16)) -> bytes | None:
    """Any image in a format; ``None`` where PIL cannot write one."""
    for mode in ("RGB", "L", "1", "P"):
        file = io.BytesIO()
        try:
            Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size)).convert(mode).save(file, format)
        except Exception:
            continue
        return file.getvalue()
    return None


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, colour: int = 2) -> bytes:
    """A PNG that says it has so many pixels, and has none."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(bytes(1000)))


def with_dimensions(format: str, width: int, height: int) -> bytes:
    """A small file whose header says that the image is large."""
    data = bytearray(encoded(format))
    if format == "PNG":
        return png(width, height)
    if format == "GIF":
        wide, high = min(width, 65535), min(height, 65535)
        data[6:10] = struct.pack("<HH", wide, high)
        place = data.index(b"\x2c", 13 + 3 * 2 ** ((data[10] & 7) + 1))
        data[place + 5 : place + 9] = struct.pack("<HH", wide, high)
    elif format == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif format == "JPEG":
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", min(height, 65500), min(width, 65500))
    elif format == "PPM":
        return b"P6 %d %d 255\n" % (width, height) + bytes(100)
    elif format == "TIFF":
        for tag, value in ((256, width), (257, height)):
            for kind in (3, 4):
                place = data.find(struct.pack("<HHI", tag, kind, 1))
                if place >= 0:
                    data[place : place + 12] = struct.pack("<HHII", tag, 4, 1, value)
    elif format == "WEBP":  # as an extended file with a canvas of its own
        canvas = (min(width, 16384) - 1).to_bytes(3, "little") + (min(height, 16384) - 1).to_bytes(3, "little")
        inner = b"VP8X" + struct.pack("<I", 10) + b"\x00\x00\x00\x00" + canvas + bytes(data[12:])
        return b"RIFF" + struct.pack("<I", len(inner) + 4) + b"WEBP" + inner
    return bytes(data)


def images(canary: Path) -> Iterator[tuple[str, str, object]]:
    """Name, ending, and what the file holds, or a function that makes it."""
    Image.init()
    for ending in (".png", ".jpg", ".tif", ".webp", ".eps"):
        yield f"PostScript as {ending}", ending, GHOSTSCRIPT.replace(b"CANARY", os.fsencode(canary))
    for format in sorted(set(Image.SAVE) - set(FORMATS)):
        if (data := encoded(format)) is not None and not data.startswith(b"\xff\xd8"):
            yield f"{format}, which is not read", ".png", data
    for format in FORMATS:
        ending = f".{format.lower()}"
        whole = encoded(format, (64, 64))
        for width, height in ((65500, 65500), (30000, 30000), (12000, 12000), (2**31 - 1, 1), (1, 2**31 - 1)):
            if format == "JPEG" and 1 in (width, height):
                continue  # its sides have sixteen bits
            yield f"{format} of {width} x {height}", ending, with_dimensions(format, width, height)
        for part in (0.0, 0.05, 0.3, 0.6):
            yield f"{format} cut at {part}", ending, whole[: int(part * len(whole))]
        for seed in range(3):
            noise = np.random.default_rng(seed).bytes(2000)
            yield f"{format} of noise {seed}", ending, whole[:12] + noise
        yield f"{format} of 3 GiB, sparse", ending, sparse(whole[:100], 3 * 2**30)
    bomb = zlib.compress(bytes(200 * 2**20), 9)
    yield "PNG with a profile of 200 MiB", ".png", png(8, 8, chunk(b"iCCP", b"x\0\0" + bomb))
    yield "PNG with a text of 200 MiB", ".png", png(8, 8, chunk(b"zTXt", b"x\0\0" + bomb))
    yield "PNG whose rows end early", ".png", png(9000, 9000)
    yield "a pipe", ".png", os.mkfifo
    yield "a device without end", ".png", lambda path: os.symlink("/dev/zero", path)
    yield "a terminal", ".png", lambda path: os.symlink("/dev/tty", path)
    yield "a link to itself", ".png", lambda path: os.symlink(path, path)
    yield "a folder", ".png", os.mkdir
    yield "a socket", ".png", bind


def sparse(start: bytes, size: int):
    """Makes a file that takes no room on the disk."""

    def make(path: Path) -> None:
        with open(path, "wb") as file:
            file.write(start)
            file.truncate(size)

    return make


def bind(path: Path) -> None:
    """A socket."""
    with socket.socket(socket.AF_UNIX) as here:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            here.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
