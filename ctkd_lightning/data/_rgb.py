"""Images of every kind as 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ctkd_lightning.errors import UserError

_SIXTEEN_BITS_IN_32 = (
    "PNG",
    "PPM",
)  # formats whose deepest grey has 16 bits, which PIL may hand out as 32-bit integers
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF


def to_rgb(image: Image.Image) -> Image.Image:
    """Bring an opened image to RGB of 0 … 255.

    The range of values is the file's, never that of the one image's pixels: two images of a data set stay comparable.

    - 8 bits, palettes, bilevel and CMYK: as PIL converts them.
    - Grey of 16 bits: the upper 8 of them, so that 65535 gives 255; of 12 bits likewise, 4095 gives 255.
    - Integers and floating-point numbers of 32 bits: refused, since the file does not tell which value is white.
    - Transparency, as a channel, in a palette or as one colour: laid over white.

    Args:
        image: as ``PIL.Image.open`` gives it.

    Returns:
        An image of mode RGB and the same size.

    Raises:
        UserError: numbers without a range.
        ValueError: PIL's, for colours that it cannot convert.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BITS_IN_32):
        image = _upper_bits(image)
    elif image.mode in ("I", "F"):
        kind = "floating-point numbers" if image.mode == "F" else "32-bit or signed integers"
        raise UserError(f"it holds {kind}, and does not tell which of them is white: save it with 8 or 16 bits")
    return _over_white(image) if image.has_transparency_data else image.convert("RGB")


def _upper_bits(image: Image.Image) -> Image.Image:
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    values = np.asarray(image)
    grey = (values >> (bits - 8)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # which PIL heeds in 8 bits alone
        grey = 255 - grey
    alpha = np.where(values == image.info.get("transparency", -1), 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))


def _over_white(image: Image.Image) -> Image.Image:
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")
