"""From a file's bytes to an upright picture, and which part of it to look at."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from kcframe.errors import DataError, did_you_mean

SCALE = (0.35, 1.0)  # of a picture's area: random crops
RATIO = (3 / 4, 4 / 3)  # width : height of random crops
TRIES = 10  # crops drawn before settling for the centre, as in Szegedy et al. 2014
CENTRE = 7 / 8  # of the short side: pictures without augmentation
UPRIGHT = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, formats: Sequence[str], mode: str, side: int) -> Image.Image:
    """A file's (first) picture, upright, in 'L' or 'RGB', what is transparent in it over white.

    side: JPEGs far larger than this are decoded at a fraction of their size, no smaller than this.
    Raises ValueError or whatever Pillow raises, with the reason.
    """
    if not data:
        raise ValueError("the file has zero bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise ValueError(_what_it_is(data, formats)) from None
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(
            f"{width}x{height} pixels are more than the {Image.MAX_IMAGE_PIXELS:,} that Pillow holds for safe"
        )
    try:
        turn = UPRIGHT.get(image.getexif().get(0x0112, 1))
    except Exception:  # a picture with damaged EXIF data is still a picture
        turn = None
    scale = side / min(width, height)
    image.draft(mode, (math.ceil(width * scale), math.ceil(height * scale)))
    image.load()
    image = _to_mode(image, mode)
    return image if turn is None else image.transpose(turn)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known")
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
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


def centre_box(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """What is left of a picture when its short side becomes 8/7 S and the middle S x S is kept."""
    width, height = size
    side = min(size) * CENTRE
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(size: tuple[int, int], draws: np.ndarray) -> tuple[float, float, float, float]:
    """A crop that fits: left, top, right, bottom. draws: float [TRIES, 4] in [0, 1)."""
    width, height = size
    for area_draw, ratio_draw, x_draw, y_draw in draws:
        area = width * height * (SCALE[0] + (SCALE[1] - SCALE[0]) * area_draw)
        ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio_draw
        crop_width, crop_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if crop_width <= width and crop_height <= height:
            left, top = (width - crop_width) * x_draw, (height - crop_height) * y_draw
            return left, top, left + crop_width, top + crop_height
    return centre_box(size)


def formats_of(extensions: Sequence[str]) -> list[str]:
    """Pillow's formats for these endings. No others: some (EPS) would start a program to read a file."""
    known = Image.registered_extensions()
    for extension in extensions:
        if f".{extension}" not in known:
            raise DataError(
                f"data.options.extensions: Pillow reads no '{extension}' files; "
                f"{did_you_mean(extension, (name[1:] for name in known))}"
            )
    return sorted({known[f".{extension}"] for extension in extensions})
