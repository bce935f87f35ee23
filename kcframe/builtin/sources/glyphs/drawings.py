"""Draws the characters, and decides which drawings are held out for the test split.

n drawings, C x C pixels each.
"""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL.ImageFont import FreeTypeFont

from kcframe.builtin.sources.glyphs.characters import UNDRAWABLE, assign
from kcframe.builtin.sources.glyphs.fonts import Face, check_faces, draw, find_faces
from kcframe.builtin.sources.glyphs.options import GlyphsOptions
from kcframe.errors import DataError
from kcframe.interfaces.toolkit.randomness import mix

MISSING = 0x10FFFF  # not a character: a font draws its box for missing characters

Drawn = dict[str, np.ndarray]
"""Face -> its drawing of a character."""


@dataclass(frozen=True)
class Rows:
    """The p pictures of a split, in order.

    codes: code points. faces: indices into the split's faces. drawings: indices of the n drawings. All int64
    [p].
    """

    codes: np.ndarray
    faces: np.ndarray
    drawings: np.ndarray


@dataclass(frozen=True)
class Plan:
    """A description of all drawings, without their pixels.

    verticals: name -> code points. faces: split -> names. rows: split -> pictures. views: code points whose
    test pictures are drawings that training uses, too. fonts: face -> SHA-256 of its file. counts: reason ->
    number of characters or drawings that are left out for it.
    """

    verticals: dict[str, list[int]]
    faces: dict[str, list[str]]
    rows: dict[str, Rows]
    views: list[int]
    fonts: dict[str, str]
    counts: dict[str, int]


def draw_all(options: GlyphsOptions, canvas: int, out: BinaryIO) -> Plan:
    """Draws all characters of the verticals and writes the pixels, uint8 [n, C, C], to `out`. canvas: C.

    Raises DataError if fonts, faces or the characters of a vertical are missing.
    """
    faces = find_faces(options.fonts)
    # With whole faces held out the layout stays as it was: there are published figures for these drawings.
    fonts = {name: face.at(canvas, basic=options.held_out == "drawings") for name, face in faces.items()}
    how = _Faces(options, fonts) if options.held_out == "faces" else _Drawings(options, fonts, canvas)
    verticals: dict[str, list[int]] = {}
    rows: dict[str, list[tuple[int, int, int]]] = {"train": [], "test": []}
    views: list[int] = []
    n = 0
    for vertical, codes in assign(options.verticals, _in_enough_files(options, faces, how.counts)).items():
        members: dict[int, None] = {}
        if options.which == "mixed":
            codes = [codes[place] for place in mix(np.array(codes, np.uint64)).argsort()]
        for code in codes:
            if options.max_classes and len(members) == options.max_classes:
                break
            if unicodedata.category(chr(code)) in UNDRAWABLE:
                how.counts["control and format characters"] += 1
                continue
            drawn = {f: draw(fonts[f], code, canvas) for f in how.order if code in faces[f].characters}
            chosen = how.choose(code, drawn)
            if isinstance(chosen, int):
                members[chosen] = None
            if not isinstance(chosen, Chosen):
                continue
            members[code] = None
            place: dict[str, int] = {}
            for face in chosen.train | chosen.test:
                place[face] = n
                out.write(drawn[face].tobytes())
                n += 1
            for split, drawings in zip(rows, (chosen.train, chosen.test), strict=True):
                rows[split] += [(code, how.faces[split].index(face), place[face]) for face in drawings]
            if chosen.train.keys() & chosen.test.keys():
                views.append(code)
        if not members:
            raise DataError(f"vertical '{vertical}' has no character with {how.enough} in the given fonts")
        verticals[vertical] = sorted(members) if options.which == "mixed" else list(members)
    how.counts["characters"] = len({code for codes in verticals.values() for code in codes})
    arrays = {split: np.array(split_rows, np.int64).T for split, split_rows in rows.items()}
    checksums = {name: face.checksum() for name, face in faces.items()}
    return Plan(
        verticals=verticals,
        faces=how.faces,
        rows={split: Rows(*columns) for split, columns in arrays.items()},
        views=views,
        fonts=checksums,
        counts=dict(how.counts),
    )


def _in_enough_files(options: GlyphsOptions, faces: Mapping[str, Face], counts: Counter[str]) -> list[int]:
    """The code points, ascending, that at least `min_files` font files have."""
    files: defaultdict[str, set[int]] = defaultdict(set)
    for face in faces.values():
        files[str(face.path.resolve())] |= face.characters
    having = Counter(code for codes in files.values() for code in codes)
    enough = sorted(code for code, count in having.items() if count >= options.min_files)
    if len(enough) < len(having):
        counts["in too few font files"] = len(having) - len(enough)
    return enough


class Chosen(NamedTuple):
    """A character's train and test drawings. A drawing in both is augmented differently in each."""

    train: Drawn
    test: Drawn


class _Chooser(ABC):
    """Decides for each character, in the order of the verticals, how its drawings are used."""

    def __init__(self, options: GlyphsOptions, fonts: Mapping[str, FreeTypeFont]):
        self.options, self.counts = options, Counter[str]()
        self.order = list(fonts)
        """Faces in the order in which they are drawn."""
        self.faces = {"train": self.order, "test": self.order}

    @property
    @abstractmethod
    def enough(self) -> str:
        """The condition for a character, as words for an error message."""

    @abstractmethod
    def choose(self, code: int, drawn: Drawn) -> Chosen | int | None:
        """The character's drawings; or an earlier code point of the same class; or None: it is no class."""


class _Faces(_Chooser):
    """Holds out whole faces."""

    def __init__(self, options: GlyphsOptions, fonts: Mapping[str, FreeTypeFont]):
        super().__init__(options, fonts)
        check_faces(options.test_faces, fonts, "data.options.test_faces")
        self.order = sorted(fonts)
        self.faces = {
            "train": [face for face in self.order if face not in options.test_faces],
            "test": [face for face in self.order if face in options.test_faces],
        }
        if not self.faces["train"]:
            raise DataError("data.options.test_faces: every face is held out, none is left to train on")
        self._seen: dict[tuple[bytes | None, ...], int] = {}

    @property
    def enough(self) -> str:
        return f"{self.options.min_train_faces} training faces and a test face"

    def choose(self, code: int, drawn: Drawn) -> Chosen | int | None:
        options, counts = self.options, self.counts
        if not all(drawing.any() for drawing in drawn.values()):
            counts["blank"] += 1
            return None
        train, test = ({f: drawn[f] for f in self.faces[split] if f in drawn} for split in self.faces)
        if len(train) < options.min_train_faces or not test:
            counts["in too few faces"] += 1
            return None
        shared = {drawing.tobytes() for drawing in train.values()}
        new = {face: drawing for face, drawing in test.items() if drawing.tobytes() not in shared}
        if not new:
            counts["drawn alike by all test faces and a training face"] += 1
            return None
        look = tuple(train[face].tobytes() if face in train else None for face in self.faces["train"])
        first = self._seen.setdefault(look, code)
        if first != code:
            counts[f"identical, {'merged' if options.identical == 'merge' else 'dropped'}"] += 1
            return first if options.identical == "merge" else None
        counts["test drawings left out, a training face has them"] += len(test) - len(new)
        return Chosen(train, new)


class _Drawings(_Chooser):
    """Holds out one drawing of each character that has enough different drawings."""

    def __init__(self, options: GlyphsOptions, fonts: Mapping[str, FreeTypeFont], canvas: int):
        super().__init__(options, fonts)
        # The box that a font draws for missing characters belongs to no character.
        boxes = [draw(font, MISSING, canvas) for font in fonts.values()]
        self._owner: dict[bytes, int | None] = dict.fromkeys(map(_digest, boxes))
        """Digest of each drawing so far, used or not -> the first character that has it; None: the box."""

    @property
    def enough(self) -> str:
        return f"drawings of its own, {self.options.min_train_faces} or more,"

    def choose(self, code: int, drawn: Drawn) -> Chosen | None:
        options, counts = self.options, self.counts
        different: Drawn = {}
        digests: set[bytes] = set()
        for face, drawing in drawn.items():
            digest = _digest(drawing)
            owner = self._owner.get(digest, code)
            if not drawing.any():
                counts["drawings: blank"] += 1
            elif owner is None:
                counts["drawings: the box of a missing character"] += 1
            elif owner != code:
                counts["drawings: the same as another character's"] += 1
            elif digest in digests:
                counts["drawings: the same as another face's"] += 1
            else:
                digests.add(digest)
                if any(_difference(drawing, other) < options.min_difference for other in different.values()):
                    counts["drawings: nearly the same as another face's"] += 1
                else:
                    different[face] = drawing
        if len(different) < options.min_train_faces:
            counts["no drawing of their own" if not different else "too few drawings of their own"] += 1
            return None
        # Register all of them: a later character that looks the same must not use any of these drawings.
        self._owner.update(dict.fromkeys(digests, code))
        if options.max_drawings:
            counts["drawings: more than max_drawings"] += max(len(different) - options.max_drawings, 0)
            different = dict(list(different.items())[: options.max_drawings])
        if len(different) == options.min_train_faces:
            return Chosen(different, different)
        names = list(different)
        held = names[int(mix(np.array([code], np.uint64))[0] % len(names))]
        return Chosen({f: d for f, d in different.items() if f != held}, {held: different[held]})


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """The difference, as a share of the ink of the drawing that has more: 0 (the same) to 2."""
    apart = np.abs(one.astype(np.int16) - other).sum()
    return float(apart) / float(max(one.sum(dtype=np.int64), other.sum(dtype=np.int64)))


def _digest(drawing: np.ndarray) -> bytes:
    return blake2b(drawing.tobytes(), digest_size=16).digest()
