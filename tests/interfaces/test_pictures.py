"""Picture files as people have them: every kind comes out upright, in 8 bits, or says what is wrong."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from kcframe.errors import DataError
from kcframe.interfaces.toolkit.pictures import decode, formats_of

FORMATS = formats_of(("avif", "bmp", "gif", "jpg", "png", "tif", "webp"))
RED, GREEN = (200, 30, 60), (0, 255, 0)


def as_bytes(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def red(mode="RGB", size=(40, 30)):
    return Image.new("RGB", size, RED).convert(mode)


def filled(value, dtype="uint16"):
    return Image.fromarray(np.full((4, 4), value, dtype))


RED_THEN_GREEN = {"save_all": True, "append_images": [Image.new("RGB", (40, 30), GREEN)]}
KINDS = {
    "grey": (as_bytes(Image.new("L", (20, 20), 90), "PNG"), (90,) * 3, 0),
    "black and white": (as_bytes(Image.new("1", (20, 20), 1), "PNG"), (255,) * 3, 0),
    "one pixel": (as_bytes(red(size=(1, 1)), "PNG"), RED, 0),
    "palette": (as_bytes(red().quantize(4), "PNG"), RED, 0),
    # Ink: no cyan, full magenta and yellow, as a printer makes red.
    "cmyk": (as_bytes(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG", quality=95), (255, 0, 0), 3),
    "animated gif": (as_bytes(red(), "GIF", **RED_THEN_GREEN), RED, 2),
    "animated webp": (as_bytes(red(), "WEBP", lossless=True, **RED_THEN_GREEN), RED, 0),
    "two in a camera's jpg": (as_bytes(red(), "MPO", **RED_THEN_GREEN), RED, 3),
    "opaque": (as_bytes(red("RGBA"), "PNG"), RED, 0),
    # Over white: colour * alpha + 255 * (1 - alpha).
    "transparent": (as_bytes(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG"), (255,) * 3, 0),
    "half transparent": (as_bytes(Image.new("RGBA", (4, 4), (255, 0, 0, 51)), "PNG"), (255, 204, 204), 0),
    "grey, half transparent": (as_bytes(Image.new("LA", (4, 4), (0, 51)), "PNG"), (204,) * 3, 0),
    "one transparent colour": (as_bytes(red(), "PNG", transparency=RED), (255,) * 3, 0),
    "transparent in a palette": (as_bytes(red("RGBA").quantize(4), "PNG", transparency=0), (255,) * 3, 0),
    # 65535 is white: 32896 of it is 128 of 255.
    "16 bits": (as_bytes(filled(32896), "PNG"), (128,) * 3, 0),
    "16 bits, big-endian": (as_bytes(filled(32896, ">u2"), "TIFF"), (128,) * 3, 0),
    "16 bits in 32": (as_bytes(filled(32896, "int32"), "TIFF"), (128,) * 3, 0),
}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture(kind, mode):
    data, colour, tolerance = KINDS[kind]
    image = decode(data, FORMATS, mode, 64)
    assert image.mode == mode
    wanted = np.array(colour if mode == "RGB" else round(np.dot(colour, (0.299, 0.587, 0.114))))
    assert np.abs(np.asarray(image).astype(int) - wanted).max() <= tolerance + (mode == "L")


ORIENTATION = {1: "TL", 2: "TR", 3: "BR", 4: "BL", 5: "LT", 6: "RT", 7: "RB", 8: "LB"}
"""The EXIF standard: the side of the upright picture at which rows, then columns, are counted from."""


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [H, W] as a file of this orientation has them."""
    height, width = upright.shape
    rows, columns = ORIENTATION[orientation]
    found = np.empty((height, width) if rows in "TB" else (width, height), np.uint8)
    for y, x in np.ndindex(height, width):
        place = {"T": y, "B": height - 1 - y, "L": x, "R": width - 1 - x}
        found[place[rows], place[columns]] = upright[y, x]
    return found


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", ORIENTATION)
def test_pictures_stand_upright(kind, orientation):
    upright = np.arange(15, dtype=np.uint8).reshape(3, 5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = as_bytes(Image.fromarray(stored(upright, orientation)), kind, exif=exif)
    assert np.array_equal(np.asarray(decode(data, FORMATS, "L", 64)), upright)


def exif_of(*entries):
    """EXIF bytes of entries (tag, type, count, value), right or wrong."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(4)


@pytest.mark.parametrize(
    ("exif", "size"),
    [
        (exif_of((0x0112, 3, 1, 6)), (30, 40)),
        # The resolution is text instead of a fraction, the orientation is good.
        (exif_of((0x0112, 3, 1, 6), (0x011A, 2, 4, 0x41414141)), (30, 40)),
        (b"Exif\0\0no sense at all", (40, 30)),
    ],
    ids=["good", "damaged elsewhere", "nonsense"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_damaged_exif_data_do_no_harm(kind, exif, size):
    assert decode(as_bytes(red(), kind, exif=exif), FORMATS, "RGB", 64).size == size


def test_large_jpegs_are_decoded_small_but_never_too_small():
    data = as_bytes(red(size=(1000, 700)), "JPEG")
    width, height = decode(data, FORMATS, "RGB", 80).size
    assert 80 <= height < 200
    assert width / height == pytest.approx(1000 / 700, rel=0.02)
    assert decode(data, FORMATS, "RGB", 900).size == (1000, 700)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9])
def test_a_truncated_file_is_no_picture(kind, kept):
    data = as_bytes(NOISE, kind)
    assert decode(data, FORMATS, "RGB", 64).size == (60, 60)
    with pytest.raises(Exception, match="."):
        decode(data[: int(len(data) * kept)], FORMATS, "RGB", 64)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "zero bytes"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 40, "none of .*JPEG.*or damaged .44 bytes"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>404</html>", "it is an HTML page"),
        (b"<svg xmlns='x'/>", "it is XML"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (as_bytes(red(), "PPM"), "it is none of"),
        (as_bytes(filled(0.5, "float32"), "TIFF"), "float32 pixels that are not of 8 or 16 bits"),
        (as_bytes(filled(70_000, "int32"), "TIFF"), "int32 pixels that are not of 8 or 16 bits"),
    ],
    ids=["empty", "damaged", "html", "svg", "lfs", "other format", "floats", "32 bits"],
)
def test_what_is_no_picture_says_what_it_is(data, says):
    with pytest.raises(ValueError, match=says):
        decode(data, FORMATS, "RGB", 64)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_no_picture_takes_unbounded_memory(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode(as_bytes(Image.new("L", (25, 40)), "PNG"), FORMATS, "L", 8).size == (25, 40)
    for size in ((40, 40), (200, 200)):  # Pillow itself refuses the second only
        with pytest.raises(Exception, match="pixels"):
            decode(as_bytes(Image.new("L", size), "PNG"), FORMATS, "L", 8)


@pytest.mark.parametrize(
    ("ending", "near"), [("jpgg", "'jpg'"), ("pdf", "'psd'"), ("svg", "'sgi'"), ("eps", "'psd'")]
)
def test_an_ending_that_nobody_reads(ending, near):
    """Pillow writes PDF, but does not read it; for EPS it would start a program."""
    with pytest.raises(DataError, match=f"data.options.extensions: .*no '{ending}' files; .*{near}"):
        formats_of(("png", ending))
