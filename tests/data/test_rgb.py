import struct

import numpy as np
import pytest
import torch
from PIL import Image

from ctkd_lightning.data._augmentation import ResizeCrop
from ctkd_lightning.data._image_files import ImageFiles
from ctkd_lightning.data._rgb import to_rgb
from ctkd_lightning.errors import UserError

GREYS = np.array([[0, 300, 12800, 40000, 65535]], dtype=np.uint16)


def rgb_of(path):
    with Image.open(path) as image:
        result = to_rgb(image)
    assert result.mode == "RGB"
    return np.asarray(result).astype(int)


def tiff(values, bits, kind=1, photometric=1):
    """An uncompressed little-endian TIFF of one row: what PIL does not write.

    Args:
        kind: the sample format: 1 unsigned, 2 signed.
        photometric: 0 where zero is white.
    """
    packed = int("".join(f"{value:0{bits}b}" for value in values), 2).to_bytes(len(values) * bits // 8, "big")
    if bits > 12:
        packed = b"".join(value.to_bytes(bits // 8, "little") for value in values)
    fields = {256: len(values), 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: len(packed)}
    directory = struct.pack("<H", len(fields) + 1)
    for tag, value in {**fields, 339: kind}.items():
        directory += struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value)
    padding = b"\0" * (len(packed) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(packed + padding)) + packed + padding + directory + bytes(4)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [("L", 7, (7, 7, 7)), ("1", 1, (255, 255, 255)), ("RGBA", (9, 8, 7, 255), (9, 8, 7)), ("P", 0, (0, 0, 0))],
)
def test_eight_bits_and_less_stay(tmp_path, mode, colour, expected):
    Image.new(mode, (2, 2), colour).save(tmp_path / "x.png")
    assert tuple(rgb_of(tmp_path / "x.png")[0, 0]) == expected


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path, suffix):
    Image.new("CMYK", (8, 8), (0, 255, 0, 0)).save(tmp_path / f"x.{suffix}")  # magenta
    assert np.abs(rgb_of(tmp_path / f"x.{suffix}") - [255, 0, 255]).max() < 4


@pytest.mark.parametrize(("suffix", "order"), [("png", "<u2"), ("tif", "<u2"), ("tif", ">u2"), ("pgm", "<u2")])
def test_sixteen_bits_are_scaled_alike_in_every_format(tmp_path, suffix, order):
    Image.fromarray(GREYS.astype(order)).save(tmp_path / f"x.{suffix}")
    pixels = rgb_of(tmp_path / f"x.{suffix}")
    assert np.abs(pixels[..., 0] - GREYS * (255 / 65535)).max() < 1
    assert (pixels == pixels[..., :1]).all()
    assert pixels[0, [0, -1], 0].tolist() == [0, 255]


@pytest.mark.parametrize("maximum", [256, 1023, 4095, 65535])
@pytest.mark.parametrize("plain", [True, False])
def test_greymaps_name_their_maximum(tmp_path, maximum, plain):
    values = np.array([0, maximum // 3, maximum])
    data = " ".join(map(str, values)).encode() if plain else values.astype(">u2").tobytes()
    (tmp_path / "x.pgm").write_bytes(b"P%d\n3 1\n%d\n" % (2 if plain else 5, maximum) + data)
    assert np.abs(rgb_of(tmp_path / "x.pgm")[0, :, 0] - values * (255 / maximum)).max() < 1


def test_twelve_bits(tmp_path):
    (tmp_path / "x.tif").write_bytes(tiff([0, 800, 2048, 4095], bits=12))
    assert rgb_of(tmp_path / "x.tif")[0, :, 0].tolist() == [0, 50, 128, 255]


def test_where_zero_is_white(tmp_path):
    for bits, values in ((8, [0, 50, 255]), (16, [0, 50 * 257, 65535])):
        (tmp_path / "x.tif").write_bytes(tiff(values, bits, photometric=0))
        assert rgb_of(tmp_path / "x.tif")[0, :, 0].tolist() == [255, 205, 0]


@pytest.mark.parametrize(
    ("name", "found"), [("f.tif", "floating-point"), ("f.pfm", "floating-point"), ("i.tif", "32-bit or signed")]
)
def test_numbers_without_a_range_are_refused(tmp_path, name, found):
    Image.fromarray(GREYS.astype(np.float32 if name[0] == "f" else np.int32)).save(tmp_path / name)
    with pytest.raises(UserError, match=rf"^it holds {found} .*: save it with 8 or 16 bits$"):
        rgb_of(tmp_path / name)


def test_signed_numbers_are_refused(tmp_path):
    (tmp_path / "x.tif").write_bytes(tiff([0, 50, 30000], bits=16, kind=2))
    with pytest.raises(UserError, match="signed integers"):
        rgb_of(tmp_path / "x.tif")


ALPHAS = np.array([255, 128, 51, 0])


def with_alpha(kind, path):
    """Four grey pixels of 40, 80, 120 and 160 with ``ALPHAS``."""
    grey = np.array([40, 80, 120, 160])
    if kind == "P":
        image = Image.new("P", (4, 1))
        image.putpalette(np.repeat(grey, 3).astype(np.uint8).tobytes())
        image.putdata(range(4))
        image.save(path, transparency=bytes(ALPHAS.tolist()))
        return
    bands = [grey, ALPHAS] if kind == "LA" else [grey, grey, grey, ALPHAS]
    Image.fromarray(np.stack(bands, -1)[None].astype(np.uint8)).save(path, lossless=True)


@pytest.mark.parametrize(
    ("kind", "suffix"), [("LA", "png"), ("LA", "tif"), ("RGBA", "png"), ("RGBA", "webp"), ("P", "png")]
)
def test_transparency_lies_over_white(tmp_path, kind, suffix):
    with_alpha(kind, tmp_path / f"x.{suffix}")
    share = ALPHAS / 255
    expected = np.array([40, 80, 120, 160]) * share + 255 * (1 - share)
    assert np.abs(rgb_of(tmp_path / f"x.{suffix}")[0] - expected[:, None]).max() <= 1


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("L", (2, 1), 9), 9),
        (Image.new("RGB", (2, 1), (7, 8, 9)), (7, 8, 9)),
        (Image.new("P", (2, 1)), 0),
        (Image.fromarray(np.full((1, 2), 5000, np.uint16)), 5000),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_one_transparent_colour(tmp_path, image, colour):
    image.putpixel((1, 0), 1 if isinstance(colour, int) else (0, 0, 0))
    image.save(tmp_path / "x.png", transparency=colour)
    first, second = rgb_of(tmp_path / "x.png")[0]
    assert first.tolist() == [255, 255, 255]
    assert second.max() <= 1


def test_kept_and_decoded_pixels_agree_for_every_kind(tmp_path):
    Image.fromarray(np.tile(GREYS, (5, 1))).save(tmp_path / "0.png")
    Image.fromarray(np.tile(GREYS, (5, 1))).save(tmp_path / "1.pgm")
    Image.new("LA", (5, 5), (30, 100)).save(tmp_path / "2.png")
    Image.new("CMYK", (5, 5), (0, 90, 20, 10)).save(tmp_path / "3.tif")
    names = ["0.png", "1.pgm", "2.png", "3.tif"]
    files = ImageFiles(tmp_path, names, [0] * 4, ResizeCrop(5))
    decoded = files.in_memory(5).pixels
    for index, name in enumerate(names):
        assert torch.equal(decoded[index].permute(1, 2, 0), torch.tensor(rgb_of(tmp_path / name), dtype=torch.uint8))
