"""Data source `glyphs`: every Unicode character that fonts can draw is a class.

Verticals are scripts or blocks, the variety of pictures comes from font faces, and faces are held out
for testing: no picture of the test split comes from a face that was trained on. (Font families share
drawings: an arrow of DejaVu Serif is DejaVu Sans's. A held-out face's drawing that some training face has too
is no test of anything, and left out.)
"""

from __future__ import annotations

import glob
import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from kcframe.builtin.data.options import GlyphsOptions
from kcframe.errors import DataError, did_you_mean
from kcframe.interfaces.data import DataSource, ImageSet, Labels
from kcframe.interfaces.randomness import keyed_uniforms
from kcframe.interfaces.transform import Transform
from kcframe.taxonomy import Taxonomy

CANVAS = 1.5  # drawings are kept this much larger than pictures, so that turning them costs no sharpness
EM = 0.62  # of the canvas: the font size
BASELINE = 0.68  # of the canvas: characters keep their height above the line, as ' and , do

CATEGORIES = {
    "Lu": "capital letters",
    "Ll": "small letters",
    "Lt": "titlecase letters",
    "Lm": "modifier letters",
    "Lo": "letters without case",
    "Mn": "combining marks",
    "Mc": "combining marks",
    "Nd": "digits",
    "Nl": "letter numbers",
    "No": "other numbers",
    "Sc": "currency signs",
    "Sk": "modifier symbols",
    "Sm": "mathematical symbols",
    "So": "other symbols",
}

UNDRAWABLE = ("Cc", "Cf", "Zl", "Zp")  # controls and line ends: layout engines fail on some of them


class Glyphs(DataSource):
    """Draws characters with FreeType (through Pillow) and keeps the drawings in memory."""

    name = "glyphs"
    Options = GlyphsOptions

    def __init__(self, options: GlyphsOptions):
        super().__init__(options)
        self.channels, self.image_size = 1, options.image_size
        self.canvas = round(options.image_size * CANVAS)
        # A photograph or screenshot of a character: all of it, white on black as it was drawn.
        self.transform = Transform(channels=1, image_size=self.image_size, fit="pad", ground="dark")

    @cached_property
    def _faces(self) -> dict[str, Path]:
        """Face name -> font file, sorted by name."""
        found: dict[str, Path] = {}
        for pattern in self.options.fonts:
            paths = _font_files(pattern)
            if not paths:
                raise DataError(f"data.options.fonts: no font file matches '{pattern}'")
            found.update((path.stem, path) for path in paths)
        for face in self.options.test_faces:
            if face not in found:
                raise DataError(f"data.options.test_faces: no face '{face}'; {did_you_mean(face, found)}")
        if len(found) == len(set(self.options.test_faces)):
            raise DataError("data.options.test_faces: every face is held out, none is left to train on")
        return dict(sorted(found.items()))

    @cached_property
    def _built(self) -> _Drawings:
        return _Drawings(self.options, self._faces, self.canvas)

    @property
    def taxonomy(self) -> Taxonomy:
        return self._built.taxonomy

    def split(self, name: str) -> GlyphSet:
        built, train = self._built, name == "train"
        faces = [face for face in self._faces if (face in self.options.test_faces) != train]
        return GlyphSet(built, faces, self.options, self.options.views if train else 1)

    def describe(self) -> dict[str, object]:
        return {
            "faces": {f: "test" if f in self.options.test_faces else "train" for f in self._faces}
        } | dict(self._built.counts)


def _font_files(pattern: str) -> list[Path]:
    if pattern.startswith("matplotlib:"):
        import matplotlib

        pattern = str(
            Path(matplotlib.get_data_path()) / "fonts" / "ttf" / pattern.removeprefix("matplotlib:")
        )
    # The display faces hold two dozen characters each.
    return [Path(path) for path in sorted(glob.glob(pattern)) if "Display" not in Path(path).stem]


class _Drawings:
    """Which characters are classes, and their drawings.

    drawings: uint8 [n, canvas, canvas]. place: (character, face) -> row. classes: character -> class id.
    """

    def __init__(self, options: GlyphsOptions, faces: dict[str, Path], canvas: int):
        from fontTools.ttLib import TTFont

        self.options, self.canvas = options, canvas
        self.train_faces = [face for face in faces if face not in options.test_faces]
        self.test_faces = [face for face in faces if face in options.test_faces]
        cover = {face: set(TTFont(path, lazy=True).getBestCmap()) for face, path in faces.items()}
        fonts = {face: ImageFont.truetype(str(path), round(canvas * EM)) for face, path in faces.items()}
        self.counts: Counter[str] = Counter()
        self.place: dict[tuple[int, str], int] = {}
        drawings: list[np.ndarray] = []
        members: dict[str, list[int]] = {}
        seen: dict[tuple[bytes | None, ...], int] = {}
        self.stands_for: dict[int, int] = {}
        every = sorted(set().union(*cover.values()))
        for vertical, wanted in _assign(options, every).items():
            members[vertical] = []
            for code in wanted:
                if options.max_classes and len(members[vertical]) == options.max_classes:
                    break
                if unicodedata.category(chr(code)) in UNDRAWABLE:
                    self.counts["blank"] += 1
                    continue
                own = {face: _draw(fonts[face], code, canvas) for face in faces if code in cover[face]}
                trained = [own[face] for face in self.train_faces if face in own]
                tested = [face for face in self.test_faces if face in own]
                if not all(drawing.any() for drawing in own.values()):
                    self.counts["blank"] += 1
                    continue
                if len(trained) < options.min_train_faces or not tested:
                    self.counts["in too few faces"] += 1
                    continue
                shared = {drawing.tobytes() for drawing in trained}
                known = [face for face in tested if own[face].tobytes() in shared]
                if len(known) == len(tested):
                    self.counts["drawn alike by all test faces and a training face"] += 1
                    continue
                look = tuple(own[f].tobytes() if f in own else None for f in self.train_faces)
                first = seen.setdefault(look, code)
                if first != code:
                    self.counts[f"identical, {'merged' if options.identical == 'merge' else 'dropped'}"] += 1
                    if options.identical == "merge" and first not in members[vertical]:
                        members[vertical].append(first)
                    continue
                members[vertical].append(code)
                self.counts["test drawings left out, a training face has them"] += len(known)
                for face in known:
                    del own[face]
                for face, drawing in own.items():
                    self.place[code, face] = len(drawings)
                    drawings.append(drawing)
        empty = [vertical for vertical, codes in members.items() if not codes]
        if empty:
            raise DataError(
                f"vertical '{empty[0]}' has no characters that the fonts draw in {options.min_train_faces} "
                "training faces and a test face"
            )
        self.drawings = torch.from_numpy(np.stack(drawings))
        self.taxonomy = _taxonomy(members, options.parents)
        codes = dict.fromkeys(code for own in members.values() for code in own)
        self.classes = {code: self.taxonomy.class_id(class_name(code)) for code in codes}
        self.counts["characters"] = len(self.classes)


def class_name(code: int) -> str:
    """'α U+03B1': the character, then its code point."""
    shown = chr(code)
    if unicodedata.combining(shown):
        shown = "\u25cc" + shown
    return f"{shown} U+{code:04X}"


def _assign(options: GlyphsOptions, codes: Sequence[int]) -> dict[str, list[int]]:
    """Each code point goes to the first vertical that asks for its block or script."""
    from fontTools import unicodedata as tables

    blocks: dict[str, str] = {}
    scripts: dict[str, str] = {}
    known = (
        (blocks, "block", set(tables.Blocks.VALUES)),
        (scripts, "script", set(tables.Scripts.NAMES)),
    )
    for vertical, wanted in options.verticals.items():
        for owners, kind, names in known:
            for name in getattr(wanted, f"{kind}s"):
                if name not in names:
                    raise DataError(
                        f"data.options.verticals.{vertical}.{kind}s: no Unicode {kind} '{name}'; "
                        f"{did_you_mean(name, names)}"
                    )
                owners.setdefault(name, vertical)
    members: dict[str, list[int]] = {vertical: [] for vertical in options.verticals}
    order = list(members)
    for code in codes:
        character = chr(code)
        asking = {blocks.get(tables.block(character)), scripts.get(tables.script(character))} - {None}
        if asking:
            members[min(asking, key=order.index)].append(code)
    return members


def _draw(font: ImageFont.FreeTypeFont, code: int, canvas: int) -> np.ndarray:
    """uint8 [canvas, canvas]: white on black, its advance centred, on a fixed baseline."""
    image = Image.new("L", (canvas, canvas))
    character = chr(code)
    left = (canvas - font.getlength(character)) / 2
    ImageDraw.Draw(image).text((left, canvas * BASELINE), character, fill=255, font=font, anchor="ls")
    return np.asarray(image)


def _taxonomy(members: dict[str, list[int]], with_parents: bool) -> Taxonomy:
    """Characters, and as parents those blocks and categories that split a vertical into parts."""
    from fontTools import unicodedata as tables

    verticals = {vertical: [class_name(code) for code in codes] for vertical, codes in members.items()}
    parents: dict[str, list[str]] = {}
    for vertical, codes in members.items() if with_parents else ():
        groups: dict[str, list[int]] = {}
        for code in codes:
            category = unicodedata.category(chr(code))
            label = CATEGORIES.get(category, "punctuation" if category[0] in "PZ" else "other characters")
            groups.setdefault(f"{vertical}: {label}", []).append(code)
            groups.setdefault(f"{vertical}: {tables.block(chr(code))}", []).append(code)
        for group, own in groups.items():
            if 2 <= len(own) < len(codes):
                verticals[vertical].append(group)
                for code in own:
                    parents.setdefault(class_name(code), []).append(group)
    return Taxonomy.build(verticals, parents)


class GlyphSet(ImageSet):
    """The drawings of some faces, `views` times each."""

    def __init__(self, built: _Drawings, faces: Sequence[str], options: GlyphsOptions, views: int):
        self.options, self.size, self.canvas = options, options.image_size, built.canvas
        self.drawings = built.drawings
        found = [
            (code, face, built.place[code, face])
            for code in built.classes
            for face in faces
            if (code, face) in built.place
        ]
        self.names = [f"{class_name(code)} in {face}" for code, face, _ in found]
        self.faces = torch.tensor([faces.index(face) for _, face, _ in found]).repeat(views)
        self.places = torch.tensor([place for _, _, place in found]).repeat(views)
        labels = {c: built.taxonomy.with_ancestors([class_id]) for c, class_id in built.classes.items()}
        self.labels = Labels.from_lists([labels[code] for code, _, _ in found] * views)

    @property
    def groups(self) -> Tensor:
        """The face: a validation face is never trained on either."""
        return self.faces

    def name(self, index: int) -> str:
        return self.names[index % len(self.names)]

    def load(self, indices: Tensor, keys: Tensor | None) -> Tensor:
        drawn = self.drawings[self.places[indices]].unsqueeze(1).float().div_(255)
        strength = self.options.augmentation
        if keys is None or strength == 0:
            grid = F.affine_grid(torch.eye(2, 3).expand(len(drawn), 2, 3), self._shape(drawn), False)
            return F.grid_sample(drawn, grid, align_corners=False)
        u = keyed_uniforms(keys, 8) * 2 - 1
        turn = u[:, 0] * math.radians(10) * strength
        scale_x, scale_y = 1 + 0.15 * strength * u[:, 1], 1 + 0.15 * strength * u[:, 2]
        shear = 0.15 * strength * u[:, 3]
        shift = u[:, 4:6] * strength * 2 / 16  # 2 of 32 pixels; the grid spans -1..1
        cos, sin = turn.cos(), turn.sin()
        rows = [cos * scale_x, (shear - sin) * scale_y, sin * scale_x, cos * scale_y]
        theta = torch.cat([torch.stack(rows, 1).view(-1, 2, 2), shift.unsqueeze(2)], 2)
        grid = F.affine_grid(theta, self._shape(drawn), False)
        pictures = F.grid_sample(drawn, grid, align_corners=False)
        ink = 1 - 0.2 * strength * (u[:, 6] + 1)  # from full contrast down to 0.6 of it
        paper = 0.1 * strength * (u[:, 7] + 1)
        return (pictures * ink.view(-1, 1, 1, 1) + paper.view(-1, 1, 1, 1)).clamp(0, 1)

    def _shape(self, drawn: Tensor) -> list[int]:
        return [len(drawn), 1, self.size, self.size]
