"""Options of the built-in data sources that make their own pictures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kcframe.interfaces.options import PluginOptions


class GlyphVertical(PluginOptions):
    """Which characters make up a vertical; what several verticals ask for goes to the first."""

    blocks: tuple[str, ...] = Field((), description="Unicode blocks, for example 'Greek and Coptic'")
    scripts: tuple[str, ...] = Field(
        (), description="Unicode scripts by four-letter code, for example 'Grek'"
    )

    @model_validator(mode="after")
    def _not_empty(self) -> GlyphVertical:
        if not self.blocks and not self.scripts:
            raise ValueError("name at least one of blocks or scripts")
        return self


class GlyphsOptions(PluginOptions):
    """Characters as font faces draw them: a class is a character, a picture one face's drawing of it."""

    fonts: tuple[str, ...] = Field(
        ("matplotlib:DejaVuSans*.ttf", "matplotlib:DejaVuSerif*.ttf"),
        min_length=1,
        description="font files: paths or globs; 'matplotlib:' looks among the fonts that matplotlib ships",
    )
    test_faces: tuple[str, ...] = Field(
        min_length=1, description="font files (without folder and ending) held out for the test split"
    )
    verticals: dict[str, GlyphVertical] = Field(min_length=1, description="name -> its characters")
    max_classes: int | None = Field(None, ge=1, description="characters a vertical, the first by code point")
    min_train_faces: int = Field(
        2, ge=1, description="fewer training faces than this and a character is left out"
    )
    identical: Literal["drop", "merge"] = Field(
        "drop",
        description="characters that all training faces draw alike: drop keeps the first; merge makes them "
        "one class, which may stand in several verticals",
    )
    parents: bool = Field(
        True, description="blocks and general categories that split a vertical become parent classes"
    )
    image_size: int = Field(32, ge=8, le=256, description="side of a picture, in pixels")
    views: int = Field(
        1, ge=1, le=1000, description="pictures of each drawing in an epoch, each augmented anew"
    )
    augmentation: float = Field(
        1.0, ge=0, le=3, description="strength; 1: ±10° turn, ±15% size, ±2 px of 32 shift"
    )


class SyntheticOptions(PluginOptions):
    """Made-up classes: each is a smooth random pattern, a picture is patterns plus noise."""

    verticals: int | tuple[Annotated[int, Field(ge=1)], ...] = Field(
        4, description="how many, sharing `classes` unevenly; or the size of each"
    )
    classes: int = Field(40, ge=1, le=10_000_000, description="N, where `verticals` is a number")
    train_images: int = Field(1000, ge=1, description="pictures in the train split")
    test_images: int = Field(200, ge=1, description="pictures in the test split")
    labels_per_image: int = Field(1, ge=1, le=16, description="patterns in one picture, of any verticals")
    image_size: int = Field(16, ge=4, le=512, description="side of a picture, in pixels")
    channels: int = Field(1, ge=1, le=4, description="of a picture")
    noise: float = Field(0.3, ge=0, le=10, description="standard deviation of the noise; patterns span 0..1")

    @model_validator(mode="after")
    def _fits(self) -> SyntheticOptions:
        if isinstance(self.verticals, int):
            if self.verticals < 1:
                raise ValueError(f"verticals is at least 1, not {self.verticals}")
            if self.classes < self.verticals:
                raise ValueError(f"{self.classes} classes are too few for {self.verticals} verticals")
        elif not self.verticals:
            raise ValueError("verticals needs at least one size")
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """(N_1, …, N_M): as given, or the classes shared out in proportion to 1, 2, …, M."""
        if not isinstance(self.verticals, int):
            return self.verticals
        m, n = self.verticals, self.classes
        total = m * (m + 1) // 2
        sizes = [1 + (n - m) * v // total for v in range(1, m + 1)]
        sizes[-1] += n - sum(sizes)
        return tuple(sizes)
