"""Stores drawings in a folder: pixels in `drawings.npy`, which processes map into memory, and a description
of them in `manifest.json`."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import fontTools
import numpy as np
import PIL
from filelock import FileLock
from PIL import features

from kcframe import __version__
from kcframe.builtin.sources.glyphs.drawings import Plan, Rows, draw_all
from kcframe.builtin.sources.glyphs.options import GlyphsOptions
from kcframe.errors import DataError
from kcframe.storage.writing import replacing

MANIFEST, PIXELS = "manifest.json", "drawings.npy"
FORMAT = 2
ANEW = f"remove {PIXELS} and {MANIFEST} there to draw anew"
NO_EFFECT = {"drawings", "views", "augmentation", "parents"}  # options that do not change the drawings


def drawings(options: GlyphsOptions, canvas: int) -> tuple[Plan, np.ndarray]:
    """(plan, pixels uint8 [n, canvas, canvas]): drawn now, or read from the folder that the options name.

    A folder without drawings is filled first. Raises DataError if the folder has drawings of other options.
    """
    if options.drawings is None:
        out = io.BytesIO()
        plan = draw_all(options, canvas, out)
        return plan, np.frombuffer(out.getbuffer(), np.uint8).reshape(-1, canvas, canvas)
    folder = Path(options.drawings).expanduser()
    try:
        if not (folder / MANIFEST).exists():
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                if not (folder / MANIFEST).exists():
                    if (folder / PIXELS).exists():
                        raise DataError(
                            f"data.options.drawings: {folder}: has a {PIXELS} without {MANIFEST}, which "
                            "may be somebody's: move it away, or name another folder"
                        )
                    _write(folder, options, canvas)
        return _read(folder, options, canvas)
    except OSError as error:
        raise DataError(f"data.options.drawings: {folder}: {error.strerror or error}") from None


def checksum(plan: Plan) -> str:
    """Checksum of characters, verticals, faces, fonts and splits. Equal fonts give equal checksums."""
    content = {name: value for name, value in _plain(plan).items() if name != "counts"}
    content["verticals"] = list(
        content["verticals"].items()
    )  # a list keeps the order, which is the order of the classes
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write(folder: Path, options: GlyphsOptions, canvas: int) -> None:
    for left in folder.glob(f".{PIXELS}.*.part"):  # left over from a process that was killed
        left.unlink(missing_ok=True)
    with replacing(folder / PIXELS) as part:
        with part.open("wb+") as out:
            # The length is not known yet: reserve the header of a very long file.
            _header(out, 2**40, canvas)
            start = out.tell()
            plan = draw_all(options, canvas, out)
            n = (out.tell() - start) // canvas**2
            out.seek(0)
            _header(out, n, canvas)
        pixels = _hash(part)
    about = {
        "kcframe_glyphs": FORMAT,
        "checksum": checksum(plan),
        "drawings": {"count": n, "canvas": canvas, "sha256": pixels},
        "options": _deciding(options),
        "made_with": {
            "kcframe": __version__,
            "pillow": PIL.__version__,
            "freetype": features.version("freetype2"),
        }
        | {"fonttools": fontTools.version},
        **_plain(plan),
    }
    with replacing(folder / MANIFEST) as part:
        part.write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def _header(out, n: int, canvas: int) -> None:
    about = {"descr": "|u1", "fortran_order": False, "shape": (n, canvas, canvas)}
    np.lib.format.write_array_header_1_0(out, about)


def _read(folder: Path, options: GlyphsOptions, canvas: int) -> tuple[Plan, np.ndarray]:
    name = folder / MANIFEST
    try:
        about = json.loads(name.read_text(encoding="utf-8"))
        if about["kcframe_glyphs"] != FORMAT:
            raise DataError(f"{name}: of another version of kcframe: {ANEW}")
        plan = _of_plain(about)
        if about["checksum"] != checksum(plan):
            raise DataError(f"{name}: was changed after it was written: {ANEW}")
        pixels = np.load(folder / PIXELS, mmap_mode="r")
        before, now = about["options"], _deciding(options)
        changed = [option for option in now if before.get(option) != now[option]]
        if changed:
            raise DataError(
                f"data.options.drawings: {folder} was drawn with another data.options.{changed[0]}: name "
                f"another folder, or {ANEW}"
            )
        if about["drawings"]["sha256"] != _hash(folder / PIXELS):
            raise DataError(f"{folder / PIXELS}: its SHA-256 is not what {MANIFEST} says: {ANEW}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder}: damaged ({error}): {ANEW}") from None
    return plan, pixels


def _deciding(options: GlyphsOptions) -> dict[str, Any]:
    deciding = options.model_dump(mode="json", exclude=NO_EFFECT)
    return deciding | {
        "verticals": list(map(list, deciding["verticals"].items()))
    }  # a list keeps the order: the first vertical gets a character


def _plain(plan: Plan) -> dict[str, Any]:
    return {
        "verticals": {name: "".join(map(chr, codes)) for name, codes in plan.verticals.items()},
        "views": "".join(map(chr, plan.views)),
        "faces": plan.faces,
        "fonts": plan.fonts,
        "rows": {
            split: {column: getattr(rows, column).tolist() for column in ("codes", "faces", "drawings")}
            for split, rows in plan.rows.items()
        },
        "counts": plan.counts,
    }


def _of_plain(about: dict[str, Any]) -> Plan:
    return Plan(
        verticals={name: [ord(c) for c in text] for name, text in about["verticals"].items()},
        faces=about["faces"],
        rows={
            split: Rows(**{name: np.array(column, np.int64) for name, column in rows.items()})
            for split, rows in about["rows"].items()
        },
        views=[ord(c) for c in about["views"]],
        fonts=about["fonts"],
        counts=about["counts"],
    )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
