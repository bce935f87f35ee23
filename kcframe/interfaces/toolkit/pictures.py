"""From a file's bytes to an upright picture of 8 bits a channel."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from kcframe.errors import DataError, did_you_mean

UPRIGHT = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def formats_of(extensions: Sequence[str]) -> list[str]:
    """Pillow's formats for these endings. No others: some (EPS) would start a program to read a file."""
    known = {ending[1:]: each for ending, each in Image.registered_extensions().items() if each in Image.OPEN}
    for extension in extensions:
        if extension not in known:
            raise DataError(
                f"data.options.extensions: Pillow reads no '{extension}' files; "
                f"{did_you_mean(extension, known)}"
            )
    return sorted({known[extension] for extension in extensions})


ENDINGS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
"""Of picture files, where nobody says which."""

EVERY_FORMAT = formats_of(ENDINGS)


def decode(
    data: bytes,
    formats: Sequence[str],
    mode: str,
    side: int,
    max_pixels: int | None = None,
    turn: Image.Transpose | Literal["exif"] | None = "exif",
) -> Image.Image:
    """A file's (first) picture, upright, in 'L' or 'RGB', what is transparent in it over white.

    side: JPEGs far larger than this are decoded at a fraction of their size, no smaller than this.
    max_pixels: that may be decoded; None: as many as Pillow thinks safe. turn: what makes it upright, where
    somebody knows better than its EXIF data.
    Raises ValueError or whatever Pillow raises, with the reason.
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
    """A picture that Pillow has opened, upright, in 'L' or 'RGB', what is transparent in it over white."""
    image.load()
    if turn == "exif":
        turn = _turn(image)
    image = _to_mode(image, mode)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes a loaded picture upright. (Loading a TIFF has done it already, and dropped the note of it.)

    ImageOps.exif_transpose would also write the EXIF data anew, and fail where they are damaged.
    """
    try:
        return UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a picture with damaged EXIF data is still a picture
        return None


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # more than 8 bits, which Pillow's convert would clip at 255
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
