"""Drawings in a folder: `drawings.npy`, which every process reads where it lies, and `manifest.json`, which
says what they are."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from kcframe.builtin.data.glyphs.drawings import Plan, Rows, draw_all
from kcframe.builtin.data.glyphs.options import GlyphsOptions
from kcframe.errors import DataError
from kcframe.storage import replacing

MANIFEST, PIXELS = "manifest.json", "drawings.npy"
FORMAT = 1
NO_EFFECT = {"drawings", "views", "augmentation", "parents"}  # on which drawings there are


def drawings(options: GlyphsOptions, canvas: int) -> tuple[Plan, np.ndarray]:
    """What the drawings are, and their pixels, uint8 [n, canvas, canvas]: drawn now, or read from the
    options' folder, where they are drawn first if it has none. DataError if it has others."""
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
                    _write(folder, options, canvas)
        return _read(folder, options, canvas)
    except OSError as error:
        raise DataError(f"data.options.drawings: {folder}: {error.strerror or error}") from None


def checksum(plan: Plan) -> str:
    """Of characters, verticals, faces, fonts and split: the same wherever the fonts are the same."""
    said = {name: value for name, value in _plain(plan).items() if name != "counts"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _write(folder: Path, options: GlyphsOptions, canvas: int) -> None:
    with replacing(folder / PIXELS) as part:
        with part.open("wb+") as out:
            # The header of a file whose length is not known yet is as long as that of a very long one.
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
            raise DataError(f"{name}: of another version of kcframe: delete the folder to draw anew")
        plan = _of_plain(about)
        if about["checksum"] != checksum(plan):
            raise DataError(f"{name}: was changed after it was written: delete the folder to draw anew")
        pixels = np.load(folder / PIXELS, mmap_mode="r")
        if pixels.shape != (about["drawings"]["count"], canvas, canvas):
            raise DataError(f"{folder / PIXELS}: {pixels.shape} is not what {MANIFEST} says: draw anew")
        before, now = about["options"], _deciding(options)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder}: damaged ({error}): delete the folder to draw anew") from None
    changed = [option for option in now if before.get(option) != now[option]]
    if changed:
        raise DataError(
            f"data.options.drawings: {folder} was drawn with another data.options.{changed[0]}: name another "
            "folder, or delete this one to draw anew"
        )
    return plan, pixels


def _deciding(options: GlyphsOptions) -> dict[str, Any]:
    return options.model_dump(mode="json", exclude=NO_EFFECT)


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
        {name: [ord(c) for c in text] for name, text in about["verticals"].items()},
        about["faces"],
        {
            split: Rows(**{name: np.array(column, np.int64) for name, column in rows.items()})
            for split, rows in about["rows"].items()
        },
        [ord(c) for c in about["views"]],
        about["fonts"],
        about["counts"],
    )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
