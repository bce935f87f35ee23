"""Where predictions go: JSON lines, Parquet, a page of pictures. Any fsspec URL; written as they come."""

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
from kcframe.students.picture_files import Found

MAX_ON_PAGE = 500  # pictures: more would be too much for a browser

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

Row = tuple[Found, list[Guess]]
"""A picture and what it may show; nothing if it has an error."""


class Output(Protocol):
    def add(self, rows: Sequence[Row]) -> None: ...


def _plain(row: Row) -> dict[str, Any]:
    found, guesses = row
    return {
        "picture": found.name,
        "error": found.error or None,
        "top": [guess.as_json() for guess in guesses],
    }


class JsonLines:
    """A JSON object a line."""

    def __init__(self, file: IO[bytes]):
        self.file = file

    def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.file.write(json.dumps(_plain(row), ensure_ascii=False).encode() + b"\n")


class Parquet:
    """A row a picture, a row group a batch."""

    def __init__(self, writer: pq.ParquetWriter):
        self.writer = writer

    def add(self, rows: Sequence[Row]) -> None:
        self.writer.write_table(pa.Table.from_pylist([_plain(row) for row in rows], SCHEMA))


class Page:
    """A page of pictures, the first MAX_ON_PAGE of them."""

    def __init__(self, file: IO[bytes], classifier: Classifier):
        self.file, self.classifier = file, classifier
        self.cards: list[dict[str, Any]] = []
        self.num_pictures, self.bad = 0, []

    def add(self, rows: Sequence[Row]) -> None:
        for found, guesses in rows:
            self.num_pictures += 1
            if found.error:
                self.bad.append((found.name, found.error))
            elif len(self.cards) < MAX_ON_PAGE:
                card = {"name": found.name, "picture": found.thumbnail, "guesses": guesses}
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
    """Those that are wanted; whole when the block ends without an error."""
    with ExitStack() as stack:
        found: list[Output] = []
        pages: list[Page] = []
        if json_file == "-":
            found.append(JsonLines(sys.stdout.buffer))
        elif json_file is not None:
            found.append(JsonLines(stack.enter_context(writing(json_file))))
        if parquet is not None:
            file = stack.enter_context(writing(parquet))
            found.append(Parquet(stack.enter_context(pq.ParquetWriter(file, SCHEMA))))
        if html is not None:
            pages.append(Page(stack.enter_context(writing(html)), classifier))
        yield [*found, *pages]
        for page in pages:
            page.close()
        sys.stdout.flush()
