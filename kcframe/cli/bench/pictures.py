"""Made-up JPEG files and recipes that read them, for a benchmark without a recipe of the user's."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

VERTICALS, CLASSES, PICTURES, SIZE = 4, 5, {"train": 40, "test": 4}, (320, 256)
IMAGE_SIZE = 128  # the size at which the recipe reads them
GROUP = 100  # pictures in a row group, as in Hugging Face's datasets


class Made(NamedTuple):
    """A picture. label: VERTICAL/CLASS. number: its place within its class. data: a JPEG file."""

    label: str
    number: int
    data: bytes


def made_up_recipe(folder: Path, url: str | None = None, layout: str = "files") -> Path:
    """Write 880 pictures of 320 x 256 pixels and a recipe that reads them, and return the recipe's file.

    The recipe lies below `folder`. url: of the pictures' folder; None: below `folder`, too. layout: one of
    LAYOUTS. The pictures are enlarged noise.
    """
    place = url or str(folder / "pictures")
    folder = Path(tempfile.mkdtemp(dir=folder))
    random = np.random.default_rng(0)
    for split, num in PICTURES.items():
        LAYOUTS[layout].write(f"{place}/{split}", _made_up(random, num))
    name, ending, _ = LAYOUTS[layout]
    data = {split: f"{place}/{split}{ending}" for split in PICTURES} if ending else {"root": place}
    recipe = {
        "kcframe": 1,
        "name": "made-up JPEG files",
        "data": {
            "name": name,
            "options": {**data, "image_size": IMAGE_SIZE, "cache": str(folder / "cache")},
        },
        "student": {
            "backbone": "small-cnn",
            "expander": {"name": "fc-sc", "options": {"s1": 64, "s2": 32}},
            "objective": "hard-bce",
            "train": {"epochs": 1, "batch_size": 32, "learning_rate": 0.01},
        },
        "arms": {"student": {}},
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return file


def _made_up(random: np.random.Generator, num: int) -> Iterator[Made]:
    for vertical in range(VERTICALS):
        for label in range(CLASSES):
            for number in range(num):
                noise = random.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
                yield Made(f"v{vertical}/v{vertical}c{label}", number, buffer.getvalue())


def _write_files(place: str, pictures: Iterator[Made]) -> None:
    storage, path = fsspec.url_to_fs(place)
    for made in pictures:
        storage.makedirs(f"{path}/{made.label}", exist_ok=True)
        storage.pipe_file(f"{path}/{made.label}/{made.number}.jpg", made.data)


def _write_tar(place: str, pictures: Iterator[Made]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for made in pictures:
            for ending, content in (("cls", made.label.encode()), ("jpg", made.data)):
                about = tarfile.TarInfo(f"{made.label.replace('/', '-')}-{made.number}.{ending}")
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
    _put(f"{place}.tar", buffer)


def _write_parquet(place: str, pictures: Iterator[Made]) -> None:
    every = list(pictures)
    table = pa.table({"image": [made.data for made in every], "label": [made.label for made in every]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=GROUP)
    _put(f"{place}.parquet", buffer)


def _put(url: str, content: io.BytesIO) -> None:
    storage, path = fsspec.url_to_fs(url)
    storage.makedirs(path.rpartition("/")[0], exist_ok=True)
    storage.pipe_file(path, content.getvalue())


class Layout(NamedTuple):
    """How pictures are stored. source: the data source that reads them. ending: of a split's one file; '': a
    split has many files. write: writes a split."""

    source: str
    ending: str
    write: Callable[[str, Iterator[Made]], None]


LAYOUTS = {
    "files": Layout("image-folder", "", _write_files),
    "tar": Layout("webdataset", ".tar", _write_tar),
    "parquet": Layout("parquet", ".parquet", _write_parquet),
}
