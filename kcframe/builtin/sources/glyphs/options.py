"""Options of the data source `glyphs`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kcframe.interfaces.options import PluginOptions

RANGE = r"^[0-9A-Fa-f]{4,6}(-[0-9A-Fa-f]{4,6})?$"


class GlyphVertical(PluginOptions):
    """The characters of a vertical. A character that several verticals name belongs to the first of them."""

    blocks: tuple[str, ...] = Field((), description="Unicode blocks, for example 'Greek and Coptic'")
    scripts: tuple[str, ...] = Field(
        (), description="Unicode scripts by four-letter code, for example 'Grek'"
    )
    codes: tuple[Annotated[str, Field(pattern=RANGE)], ...] = Field(
        (), description="code points in hexadecimal, for example 4E00-5EFF"
    )

    @model_validator(mode="after")
    def _not_empty(self) -> GlyphVertical:
        if not self.blocks and not self.scripts and not self.codes:
            raise ValueError("name at least one of blocks, scripts or codes")
        for text, (first, last) in zip(self.codes, self.ranges(), strict=True):
            if first > last:
                raise ValueError(f"codes: {text} ends before it begins")
        return self

    def ranges(self) -> list[tuple[int, int]]:
        """(first, last) code point of each of `codes`."""
        ends = [text.split("-") for text in self.codes]
        return [(int(pair[0], 16), int(pair[-1], 16)) for pair in ends]


class GlyphsOptions(PluginOptions):
    """Characters drawn by font faces: a class is a character, a picture is one face's drawing of it."""

    fonts: tuple[str, ...] = Field(
        ("matplotlib:DejaVuSans*.ttf", "matplotlib:DejaVuSerif*.ttf"),
        min_length=1,
        description="font files: paths or globs; 'matplotlib:GLOB' looks among the fonts that matplotlib "
        "ships, 'fontconfig:PATTERN' asks fc-list; '#2' behind a collection (.ttc) is that face of it alone",
    )
    held_out: Literal["faces", "drawings"] = Field(
        "faces",
        description="what the test split has: faces: those of test_faces; drawings: of each character one of "
        "its different drawings, and where it has too few, views of those it has that training never sees",
    )
    test_faces: tuple[str, ...] = Field(
        (), description="for held_out: faces: font files (without folder and ending)"
    )
    verticals: dict[str, GlyphVertical] = Field(min_length=1, description="name -> its characters")
    max_classes: int | None = Field(None, ge=1, description="characters a vertical")
    which: Literal["first", "mixed"] = Field(
        "first", description="of them: the first by code point; or mixed, from all over the vertical"
    )
    min_files: int = Field(1, ge=1, description="a character that fewer font files have is left out")
    min_train_faces: int = Field(
        2, ge=1, description="fewer training faces (or drawings) than this and a character is left out"
    )
    max_drawings: int | None = Field(
        None,
        ge=2,
        description="for held_out: drawings: of a character, those of the first fonts; null: all of them",
    )
    min_difference: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="for held_out: drawings: two drawings of a character count as one if they differ by less "
        "than this share of their ink",
    )
    identical: Literal["drop", "merge"] = Field(
        "drop",
        description="characters that all training faces draw alike: drop keeps the first; merge makes them "
        "one class, which may stand in several verticals. With held_out: drawings, each drawing is the first "
        "character's that has it",
    )
    parents: bool = Field(
        True,
        description="what splits a vertical becomes parent classes: blocks, general categories, radicals of "
        "ideographs, first letters of Hangul syllables",
    )
    drawings: str | None = Field(
        None,
        min_length=1,
        description="folder that keeps the drawings: made there once, then read from there by every process, "
        "on a machine without these fonts, too; null: each process draws for itself",
    )
    image_size: int = Field(32, ge=8, le=256, description="side of a picture, in pixels")
    views: int = Field(
        1, ge=1, le=1000, description="pictures of each drawing in an epoch, each augmented anew"
    )
    augmentation: float = Field(
        1.0, ge=0, le=3, description="strength; 1: ±10° turn, ±15% size, ±2 px of 32 shift"
    )

    @model_validator(mode="after")
    def _fits(self) -> GlyphsOptions:
        if self.held_out == "faces" and not self.test_faces:
            raise ValueError("test_faces: names at least one face, or give held_out: drawings")
        if self.held_out == "drawings" and self.test_faces:
            raise ValueError("test_faces: held_out: drawings holds out no face; leave one of them out")
        if self.max_drawings and self.held_out == "faces":
            raise ValueError("max_drawings: needs held_out: drawings")
        if self.max_drawings and self.max_drawings <= self.min_train_faces:
            raise ValueError("max_drawings: one more than min_train_faces at least, or none is held out")
        if self.held_out == "drawings" and self.identical == "merge":
            raise ValueError("identical: merge needs held_out: faces")
        return self
