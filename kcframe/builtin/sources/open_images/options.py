"""Options of the data source `open-images`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from kcframe.pictures.stores.options import PictureOptions

PUBLISHED = "s3://open-images-dataset/{split}/{id}.jpg"


def in_shards(images: str) -> bool:
    """Whether the pictures are in tar files."""
    return images.endswith((".tar", ".tar.gz", ".tgz"))


class OpenImagesOptions(PictureOptions):
    """Open Images V3 to V7, in its published layouts."""

    metadata: str = Field(min_length=1, description="folder or URL of the CSV, TXT and JSON files")
    images: str = Field(
        PUBLISHED,
        min_length=1,
        description="path or URL of a picture, with {split} and {id} in it; or of tar shards, as in "
        "s3://bucket/{split}_*.tar, whose members are called ID.jpg",
    )
    train_split: str = Field("train", min_length=1, description="Open Images' split to learn from")
    test_split: str = Field("validation", min_length=1, description="Open Images' split to be measured on")
    labels: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="label files by split, below metadata; default: the published name of the human-verified "
        "ones, whichever of V3 to V7 is there",
    )
    min_confidence: float = Field(
        1.0,
        gt=0,
        le=1,
        description="labels below are left out: 1 for verified ones, less for machine-generated ones",
    )
    confidence: Literal["count", "weight"] = Field(
        "count",
        description="count: every label that is not left out counts as 1; weight: as much as its confidence "
        "says, as a target of eq. 1. Figures and teachers take those of 0.5 and more for true, and images "
        "that have none of these are not learned from",
    )
    unknown: Literal["negative", "ignore"] = Field(
        "negative",
        description="labels that nobody verified: negative takes them for absent; ignore keeps them out of "
        "hard targets and average precision, so that only verified-absent ones are negatives",
    )
    trainable_only: bool = Field(False, description="only classes of classes-trainable.txt")
    verticals: str = Field(
        "hierarchy",
        min_length=1,
        description="hierarchy: the top levels of the published hierarchy file; else the path or URL of a "
        "taxonomy file as of image-folder, with class names or MIDs",
    )
    rest: str | None = Field(
        "other", min_length=1, description="vertical of the classes in no other; null: leave them out"
    )
    min_images: int = Field(
        1, ge=1, description="training images that a class (with its kinds) must have, else it is left out"
    )

    @model_validator(mode="after")
    def _two_splits(self) -> OpenImagesOptions:
        splits = {self.train_split, self.test_split}
        if len(splits) == 1:
            raise ValueError(
                f"train_split and test_split are both '{self.train_split}': no picture may be in both"
            )
        for split, files in self.labels.items():
            if split not in splits or not files:
                raise ValueError(f"labels: '{split}' should be one of {sorted(splits)}, with a file at least")
        return self

    @field_validator("images")
    @classmethod
    def _has_places(cls, images: str) -> str:
        if in_shards(images):
            if images.replace("{split}", "a") == images and not any(sign in images for sign in "*?["):
                raise ValueError(f"'{images}' should have {{split}} in it, as in s3://bucket/{{split}}_*.tar")
            return images
        try:
            made = {images.format(split="a", id=number) for number in ("b", "c")}
        except (KeyError, IndexError, ValueError):
            made = set()
        if len(made) != 2:
            raise ValueError(f"'{images}' should have {{id}} in it, and may have {{split}}: {PUBLISHED}")
        return images
