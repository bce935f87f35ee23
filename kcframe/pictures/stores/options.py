"""Options that all data sources with stored pictures share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from kcframe.interfaces.options import PluginOptions

Augmentation = Literal["crop-flip", "crop", "none"]


class PictureOptions(PluginOptions):
    """How pictures are fetched, decoded and augmented."""

    image_size: int = Field(224, ge=8, le=1024, description="side of a picture, in pixels")
    augmentation: Augmentation = Field(
        "crop-flip", description="random crop of 35% to 100% of the picture, and mirroring half of the time"
    )
    threads: int = Field(16, ge=1, le=256, description="pictures fetched and decoded at a time, a worker")
    max_bad_fraction: float = Field(
        0.001, ge=0, le=1, description="pictures that may be missing or damaged, and are skipped; 0: none"
    )
    anonymous: bool = Field(False, description="read s3:// without credentials, as public buckets allow")
    cache: str | None = Field(
        "~/.cache/kcframe", description="folder of this machine for what need not be fetched or made twice"
    )
    cache_gib: float = Field(
        0.0,
        ge=0,
        description="pictures kept in that folder, in GiB; when it is full, those longest unused are "
        "deleted. They are known by their address: delete the folder if pictures change. 0: none",
    )

    @field_validator("cache")
    @classmethod
    def _of_this_machine(cls, cache: str | None) -> str | None:
        if cache is not None and "://" in cache:
            raise ValueError(f"'{cache}': the cache is a folder of this machine")
        return cache

    @field_validator("cache_gib")
    @classmethod
    def _has_a_folder(cls, gib: float, info) -> float:
        if gib and info.data.get("cache", "") is None:
            raise ValueError("needs a folder: give data.options.cache")
        return gib
