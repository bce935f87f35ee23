"""Writes predictions as JSON lines, Parquet, or a page of pictures, to any fsspec URL, batch by batch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from kcframe.report.page import render
from kcframe.storage.writing import writing
from kcframe.students.load import Classifier, Guess
from kcframe.students.picture_files import PictureFile

MAX_ON_PAGE = 500  # most pictures on a page: more are too many for a browser

PARENT = pa.struct([("class", pa.string()), ("probability", pa.float32())])
GUESS = pa.struct(
    [
        ("class", pa.string()),
        ("probability", pa.float32()),
        ("verticals", pa.list_(pa.string())),
        ("parents", pa.list_(PARENT)),
    ]
)
SCHEMA = pa.schema([("picture", pa.string()), ("error", pa.string()), ("top", pa.list_(GUESS))])

Row = tuple[PictureFile, list[Guess]]
"""A picture and its guesses; none if it has an error."""


class Output(Protocol):
    def add(self, rows: Sequence[Row]) -> None: ...


def _plain(row: Row) -> dict[str, Any]:
    picture, guesses = row
    return {
        "picture": picture.name,
        "error": picture.error or None,
        "top": [guess.as_json() for guess in guesses],
    }


class JsonLines:
    """Writes one JSON object per line."""

    def __init__(self, file: IO[bytes]):
        self.file = file

    def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.file.write(json.dumps(_plain(row), ensure_ascii=False).encode() + b"\n")


class Parquet:
    """Writes one row per picture, and one row group per batch."""

    def __init__(self, writer: pq.ParquetWriter):
        self.writer = writer

    def add(self, rows: Sequence[Row]) -> None:
        self.writer.write_table(pa.Table.from_pylist([_plain(row) for row in rows], SCHEMA))


class Page:
    """Writes a page with the first MAX_ON_PAGE pictures."""

    def __init__(self, file: IO[bytes], classifier: Classifier):
        self.file, self.classifier = file, classifier
        self.cards: list[dict[str, Any]] = []
        self.num_pictures = 0
        self.bad: list[tuple[str, str]] = []

    def add(self, rows: Sequence[Row]) -> None:
        for picture, guesses in rows:
            self.num_pictures += 1
            if picture.error:
                self.bad.append((picture.name, picture.error))
            elif len(self.cards) < MAX_ON_PAGE:
                card = {"name": picture.name, "picture": picture.thumbnail, "guesses": guesses}
                self.cards.append(card)

    def close(self) -> None:
        page = render(
            "predictions.html",
            arm=self.classifier.arm,
            num_classes=self.classifier.taxonomy.num_classes,
            num_pictures=self.num_pictures,
            cards=self.cards,
            bad=self.bad[:MAX_ON_PAGE],
            num_bad=len(self.bad),
        )
        self.file.write(page.encode())


@contextmanager
def outputs(
    classifier: Classifier, json_file: str | None, parquet: str | None, html: str | None
) -> Iterator[list[Output]]:
    """The outputs that have a file name. Their files are complete when the block ends without an error."""
    with ExitStack() as stack:
        writers: list[Output] = []
        pages: list[Page] = []
        if json_file == "-":
            writers.append(JsonLines(sys.stdout.buffer))
        elif json_file is not None:
            writers.append(JsonLines(stack.enter_context(writing(json_file))))
        if parquet is not None:
            file = stack.enter_context(writing(parquet))
            writers.append(Parquet(stack.enter_context(pq.ParquetWriter(file, SCHEMA))))
        if html is not None:
            pages.append(Page(stack.enter_context(writing(html)), classifier))
        yield [*writers, *pages]
        for page in pages:
            page.close()
        sys.stdout.flush()
