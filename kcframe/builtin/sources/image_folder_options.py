"""Options of the data source `image-folder`."""

from __future__ import annotations

from pathlib import PurePosixPath
from posixpath import normpath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from kcframe.pictures.stores.options import PictureOptions

Extension = Annotated[str, Field(pattern="^[a-z0-9]+$")]


class ImageFolderOptions(PictureOptions):
    """Folders of pictures, one folder per class."""

    root: str = Field(min_length=1, description="folder or URL (any fsspec protocol) of the two below")
    train: str = Field("train", min_length=1, description="folder of the train split, below root")
    test: str = Field("test", min_length=1, description="folder of the test split, below root")
    taxonomy: str | None = Field(
        None,
        min_length=1,
        description="path or URL of a CSV file (header class,vertical and perhaps parents, separated by ;) "
        'or JSON file ({"verticals": {name: [classes]}, "parents": {class: [classes]}}, or as in a run '
        "directory); null: pictures lie in <vertical>/<class>/",
    )
    channels: Literal[1, 3] = Field(3, description="3: colour; 1: grey")
    threads: int = Field(4, ge=1, le=256, description="pictures fetched and decoded at a time, a worker")
    max_bad_fraction: float = Field(
        0.0, ge=0, le=1, description="pictures that may be missing or damaged, and are skipped; 0: none"
    )
    extensions: tuple[Extension, ...] = Field(
        ("jpg", "jpeg", "png", "webp", "bmp", "gif"),
        min_length=1,
        description="endings of picture files, in small letters and without dot; other files are left out",
    )

    @model_validator(mode="after")
    def _two_folders(self) -> ImageFolderOptions:
        train, test = (PurePosixPath(normpath(folder.strip("/"))) for folder in (self.train, self.test))
        if train.is_relative_to(test) or test.is_relative_to(train):
            raise ValueError(
                f"train '{self.train}' and test '{self.test}' are one folder, or one lies in the other: they "
                "must share no picture"
            )
        return self
