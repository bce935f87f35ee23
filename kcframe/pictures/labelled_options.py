"""Options of the data sources that store each picture with its labels: `webdataset` and `parquet`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from kcframe.pictures.stores.options import PictureOptions
from kcframe.storage.remote import without_secrets


def _as_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Addresses = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_list), Field(min_length=1)
]


class LabelledOptions(PictureOptions):
    """The files of the two splits, and the meaning of their labels."""

    train: Addresses = Field(
        description="files to learn from: paths or URLs, with * or {000..146} in them, one or a list"
    )
    test: Addresses = Field(description="files to be measured on, likewise")
    taxonomy: str | None = Field(
        None,
        min_length=1,
        description="path or URL of a taxonomy file as of image-folder; null: labels are VERTICAL/CLASS",
    )
    classes: str | None = Field(
        None,
        min_length=1,
        description="path or URL of a file with a class a line, for labels that are numbers: 0 is the first",
    )
    channels: Literal[1, 3] = Field(3, description="3: colour; 1: grey")

    @model_validator(mode="after")
    def _two_splits(self) -> LabelledOptions:
        if both := set(self.train) & set(self.test):
            shown = without_secrets(sorted(both)[0])
            raise ValueError(f"train and test both name '{shown}': no picture may be in both")
        return self


class WebDatasetOptions(LabelledOptions):
    """Tar shards in which a picture and its label have one name with two endings, as webdataset writes
    them."""

    label: str = Field(
        "cls",
        pattern=r"^[a-z0-9]+(\.[a-z0-9]+)*$",
        description="ending of the members with labels: text, a label a line; or JSON where it ends in json",
    )
    field: str = Field(
        "label", min_length=1, description="of a JSON member: a label (text or number) or a list of them"
    )


class ParquetOptions(LabelledOptions):
    """Parquet files with a column of encoded pictures and one of labels, as Hugging Face's datasets have."""

    image: str = Field(
        "image",
        min_length=1,
        description="column of pictures: bytes, or {bytes, path} as Hugging Face has them",
    )
    label: str = Field(
        "label", min_length=1, description="column of labels: a text or number, or a list of them"
    )
    cache: str = Field(
        "~/.cache/kcframe",
        description="folder of this machine in which row groups are unpacked, so that pictures can be read "
        "in any order",
    )
    cache_gib: float = Field(
        100.0, gt=0, description="how much may be there, in GiB: all pictures of the two splits must fit"
    )
