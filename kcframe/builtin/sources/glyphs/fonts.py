"""Font files, their faces, and drawings of characters in them."""

from __future__ import annotations

import glob
import hashlib
import logging
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kcframe.errors import DataError, did_you_mean

EM = 0.62  # font size, as a share of the canvas
BASELINE = 0.68  # height of the baseline, as a share of the canvas; ' and , differ by their height above it
NUMBER = re.compile(r"^(?P<file>.*\.(?:ttc|otc))#(?P<number>\d+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Face:
    """A face of a font file.

    name: the file's name without folder and ending; in a collection, followed by `#` and the face's number.
    """

    name: str
    path: Path
    number: int = 0

    @cached_property
    def characters(self) -> frozenset[int]:
        """Code points that the font has, by its own table. Raises DataError if the file is no font."""
        from fontTools.ttLib import TTFont

        # fontTools warns of glyph names, which are not used here.
        logging.getLogger("fontTools").setLevel(logging.CRITICAL)
        try:
            with TTFont(self.path, lazy=True, fontNumber=self.number) as font:
                return frozenset(font.getBestCmap() or ())
        except Exception as error:  # damaged fonts fail in many ways
            raise _unreadable(self.path, error) from None

    def at(self, canvas: int, basic: bool = False) -> ImageFont.FreeTypeFont:
        """The font at the size for a canvas of this side, in pixels.

        basic: use the same layout on every machine, even if Pillow finds a library for complex layout.
        """
        engine, size = ImageFont.Layout.BASIC if basic else None, round(canvas * EM)
        try:
            return ImageFont.truetype(str(self.path), size, index=self.number, layout_engine=engine)
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def checksum(self) -> str:
        """SHA-256 of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def find_faces(patterns: Sequence[str]) -> dict[str, Face]:
    """Name -> face, in the order of the patterns and then of names, without duplicates.

    A pattern is a path or glob, `matplotlib:GLOB` (fonts that matplotlib ships), or `fontconfig:PATTERN` (the
    fonts that `fc-list PATTERN` lists). `#N` after a collection (.ttc) selects that face alone. Raises
    DataError if a pattern matches nothing, or if two files have the same name.
    """
    faces: dict[str, Face] = {}
    for pattern in patterns:
        files, number = pattern, None
        if matched := NUMBER.match(pattern):
            files, number = matched["file"], int(matched["number"])
        paths = _font_files(files)
        if not paths:
            raise DataError(
                f"data.options.fonts: no font file matches '{pattern}': install it, or leave it out"
            )
        for path in paths:
            for face in _faces(path, number):
                other = faces.setdefault(face.name, face)
                if other.path.resolve() != face.path.resolve():
                    raise DataError(
                        f"data.options.fonts: {other.path} and {face.path} have one name, which faces are "
                        "told apart by; leave one out"
                    )
    return faces


def _font_files(pattern: str) -> list[Path]:
    if pattern.startswith("fontconfig:"):
        return _of_fontconfig(pattern.removeprefix("fontconfig:"))
    if pattern.startswith("matplotlib:"):
        import matplotlib

        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        paths = folder.glob(pattern.removeprefix("matplotlib:"))
        # The display faces have only two dozen characters each.
        return _in_order(path for path in paths if "Display" not in path.stem)
    path = Path(pattern).expanduser()
    # Some fonts have brackets in their names: NotoSans[wght].ttf.
    return [path] if path.is_file() else _in_order(map(Path, glob.glob(str(path))))


def _in_order(paths: Iterable[Path]) -> list[Path]:
    """Sorted by file name, so that the order does not depend on a machine's folders."""
    return sorted(set(paths), key=lambda path: (path.name, path))


def _of_fontconfig(pattern: str) -> list[Path]:
    if shutil.which("fc-list") is None:
        raise DataError(
            f"data.options.fonts: 'fontconfig:{pattern}' asks fc-list, which is not installed "
            "(apt-get install fontconfig); or name font files by path"
        )
    command = ["fc-list", "-f", "%{file}\n", "--", pattern]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)  # noqa: S603
    if done.returncode:
        raise DataError(f"data.options.fonts: fc-list {pattern}: {done.stderr.strip()[:200]}")
    outlines = (".ttf", ".otf", ".ttc", ".otc")
    return _in_order(Path(line) for line in done.stdout.splitlines() if line.lower().endswith(outlines))


def _faces(path: Path, number: int | None) -> list[Face]:
    if path.suffix.lower() not in (".ttc", ".otc"):
        return [Face(path.stem, path)]
    from fontTools.ttLib import TTCollection

    try:
        with TTCollection(path, lazy=True) as collection:
            count = len(collection)
    except Exception as error:  # damaged fonts fail in many ways
        raise _unreadable(path, error) from None
    if number is not None and number >= count:
        raise DataError(f"data.options.fonts: {path}: it has {count} faces, from #0 on: no #{number}")
    numbers = range(count) if number is None else [number]
    return [Face(f"{path.stem}#{face}", path, face) for face in numbers]


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"data.options.fonts: {path}: no font that can be read: {error}")


def check_faces(names: Sequence[str], faces: Mapping[str, Any], option: str) -> None:
    """Raises DataError for a name that is not a face."""
    for name in names:
        if name not in faces:
            raise DataError(f"{option}: no face '{name}'; {did_you_mean(name, faces)}")


def draw(font: ImageFont.FreeTypeFont, code: int, canvas: int) -> np.ndarray:
    """uint8 [canvas, canvas]: white on black, centred by its advance width, on a fixed baseline."""
    image = Image.new("L", (canvas, canvas))
    character = chr(code)
    try:
        left = (canvas - font.getlength(character)) / 2
        ImageDraw.Draw(image).text((left, canvas * BASELINE), character, fill=255, font=font, anchor="ls")
    except OSError as error:
        file = str(font.path)
        raise DataError(f"data.options.fonts: {file}: U+{code:04X} cannot be drawn: {error}") from None
    return np.asarray(image)
