"""From a file's bytes to an upright picture with 8 bits per channel."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from kcframe.errors import DataError, did_you_mean

UPRIGHT = {  # EXIF orientation -> the transposition that makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# Formats that Pillow decodes itself: for EPS it starts Ghostscript, some it hands to whoever registered.
PICTURES = {"AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX"}
PICTURES |= {"PNG", "PPM", "PSD", "QOI", "SGI", "TGA", "TIFF", "WEBP"}


def formats_of(extensions: Sequence[str]) -> list[str]:
    """Pillow's formats for these endings. Raises DataError for one that is not among `PICTURES`."""
    format_of = {
        ending[1:]: format_name
        for ending, format_name in Image.registered_extensions().items()
        if format_name in Image.OPEN and format_name in PICTURES
    }
    for extension in extensions:
        if extension not in format_of:
            raise DataError(
                f"data.options.extensions: kcframe reads no '{extension}' files; "
                f"{did_you_mean(extension, format_of)}"
            )
    return sorted({format_of[extension] for extension in extensions})


ENDINGS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
"""Default endings of picture files."""

EVERY_FORMAT = formats_of(ENDINGS)


def decode(
    data: bytes,
    formats: Sequence[str],
    mode: str,
    side: int,
    max_pixels: int | None = None,
    *,
    turn: Image.Transpose | Literal["exif"] | None = "exif",
) -> Image.Image:
    """The (first) picture of a file, upright, in mode 'L' or 'RGB'; transparent parts become white.

    side: a JPEG that is much larger is decoded at a fraction of its size, but not smaller than this.
    max_pixels: most pixels that may be decoded; None: Pillow's safe limit. turn: the transposition that makes
    the picture upright; 'exif': the one in its EXIF data; None: none. Raises ValueError or an error of
    Pillow, with the reason.
    """
    if not data:
        raise ValueError("the file has zero bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=list(formats))
    except UnidentifiedImageError:
        raise ValueError(_what_it_is(data, formats)) from None
    width, height = image.size
    safe = Image.MAX_IMAGE_PIXELS if max_pixels is None else max_pixels
    if safe is not None and width * height > safe:
        raise ValueError(f"{width}x{height} pixels are more than the {safe:,} that are thought safe")
    scale = side / min(width, height)
    image.draft(mode, (math.ceil(width * scale), math.ceil(height * scale)))
    return upright(image, mode, turn)


def upright(
    image: Image.Image, mode: str, turn: Image.Transpose | Literal["exif"] | None = "exif"
) -> Image.Image:
    """An opened Pillow image, upright, in mode 'L' or 'RGB'; transparent parts become white."""
    image.load()
    if turn == "exif":
        turn = _turn(image)
    image = _to_mode(image, mode)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The transposition that makes a loaded picture upright, or None.

    Pillow makes a TIFF upright when it loads it, and removes the orientation. ImageOps.exif_transpose is not
    used: it writes the EXIF data again, and fails if they are damaged.
    """
    try:
        return UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a picture with damaged EXIF data is still a picture
        return None


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # more than 8 bits per channel: Pillow's convert would clip at 255
        pixels = np.asarray(image)
        if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(f"{pixels.dtype} pixels that are not of 8 or 16 bits: what is white?")
        image = Image.fromarray((pixels // 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _what_it_is(data: bytes, formats: Sequence[str]) -> str:
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is an HTML page, not a picture: the download went wrong"
    if start.startswith((b"<?xml", b"<svg")):
        return "it is XML (SVG?), not a picture made of pixels"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: fetch the picture with 'git lfs pull'"
    return f"it is none of {', '.join(formats)}, or damaged ({len(data):,} bytes, the first are {data[:8]!r})"
