"""Open Images' own files: their names in each version, and readers for the small ones.

A MID is the id of a class in these files, such as /m/025fsf.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

import fsspec

from kcframe.errors import DataError, did_you_mean
from kcframe.storage.remote import (
    PAUSES_AT_FIRST,
    as_text,
    explained,
    is_there,
    marks_of,
    patiently,
    without_secrets,
)

DESCRIPTIONS = (
    "class-descriptions.csv",
    "oidv6-class-descriptions.csv",
    "oidv7-class-descriptions.csv",
    "dict.csv",
)
TRAINABLE = ("classes-trainable.txt", "oidv6-classes-trainable.txt", "oidv7-classes-trainable.txt")
HIERARCHY = ("bbox_labels_600_hierarchy.json", "bbox_hierarchy.json")
HUMAN = (
    "{split}-annotations-human-imagelabels.csv",
    "{split}/{split}-annotations-human-imagelabels.csv",
    "oidv6-{split}-annotations-human-imagelabels.csv",
    "oidv7-{split}-annotations-human-imagelabels.csv",
    "{split}/annotations-human.csv",
)
IMAGES = (
    "{split}-images-with-labels-with-rotation.csv",
    "{split}/{split}-images-with-labels-with-rotation.csv",
    "{split}/{split}-images-boxable-with-rotation.csv",
    "{split}-image_ids_and_rotation.csv",
    "{split}-images-boxable-with-rotation.csv",
    "oidv6-{split}-images-with-labels-with-rotation.csv",
    "{split}/images.csv",
)


class Metadata:
    """The folder with Open Images' CSV, TXT and JSON files. Errors are DataErrors that name the file."""

    def __init__(self, url: str, storage_options: dict[str, Any]):
        self.url = without_secrets(url).rstrip("/")
        self.web = url.startswith(("http://", "https://"))
        try:
            self.storage, folder = fsspec.url_to_fs(url, **storage_options)
        except (ImportError, ValueError) as error:
            raise DataError(f"data.options.metadata: {self.url}: {error}") from None
        self.folder = folder.rstrip("/")

    def find(self, names: Sequence[str], **values: str) -> str | None:
        """The first of `names` that exists, or None."""
        for name in (name.format(**values) for name in names):
            if self._ask(lambda name=name: is_there(self.storage, f"{self.folder}/{name}"), name):
                return name
        return None

    def need(self, what: str, names: Sequence[str], **values: str) -> str:
        """Like `find`, but raises DataError if none exists. what: describes the files in the error."""
        if (file := self.find(names, **values)) is not None:
            return file
        looked = ", ".join(name.format(**values) for name in names)
        message = f"{self.url}: no {what}: looked for {looked}"
        if self.web:  # folders cannot be listed over HTTP
            raise DataError(message)
        listed = self._ask(self._listed, "")
        raise DataError(f"{message}; {did_you_mean(names[0].format(**values), listed)}")

    def _listed(self) -> list[str]:
        if not self.storage.isdir(self.folder):
            raise DataError(f"data.options.metadata: no folder '{self.url}'")
        return [posixpath.basename(path.rstrip("/")) for path in self.storage.ls(self.folder, detail=False)]

    def read(self, name: str) -> str:
        """A file's text."""
        data = self._ask(lambda: self.storage.cat_file(f"{self.folder}/{name}"), name)
        return as_text(data, f"{self.url}/{name}")

    def open(self, name: str):
        """A file, opened for reading from its beginning to its end."""
        return self._ask(lambda: self.storage.open(f"{self.folder}/{name}", "rb"), name)

    def fingerprint(self, name: str) -> str:
        """A text that changes when the file does."""
        info = self._ask(lambda: self.storage.info(f"{self.folder}/{name}"), name)
        return "|".join([self.url, name, *marks_of(info)])

    def _ask(self, action: Any, name: str) -> Any:
        try:
            return patiently(action, PAUSES_AT_FIRST if "://" in self.url else ())
        except DataError:
            raise
        except FileNotFoundError:
            raise DataError(f"{self.url}/{name}: no such file") from None
        except Exception as error:  # each storage raises its own
            raise DataError(f"{self.url}/{name}: cannot be read: {explained(error)}") from None


def read_descriptions(metadata: Metadata) -> dict[str, str]:
    """MID -> unique name: classes with the same description get their MID appended."""
    name = metadata.need("class descriptions", DESCRIPTIONS)
    descriptions: dict[str, str] = {}
    reader = csv.reader(io.StringIO(metadata.read(name)))
    for row in _rows(reader, f"{metadata.url}/{name}"):
        if not row or row == ["LabelName", "DisplayName"]:
            continue
        if len(row) != 2 or not row[0].startswith("/"):
            raise DataError(
                f"{metadata.url}/{name}: line {reader.line_num}: should be MID,description, as in "
                f"/m/025fsf,Stapler; it is {','.join(row)[:80]}"
            )
        descriptions[row[0]] = row[1].strip() or row[0]
    times: dict[str, int] = {}
    for text in descriptions.values():
        times[text] = times.get(text, 0) + 1
    return {mid: text if times[text] == 1 else f"{text} ({mid})" for mid, text in descriptions.items()}


def _rows(reader: Any, where: str) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise DataError(f"{where}: line {reader.line_num}: {error}; is a quote left open?") from None


def read_trainable(metadata: Metadata) -> list[str]:
    """The MIDs of classes-trainable.txt."""
    name = metadata.need("list of trainable classes", TRAINABLE)
    return [line.strip() for line in metadata.read(name).splitlines() if line.strip()]


class Node:
    """A class of the hierarchy with its kinds (subclasses). Parts are ignored: a wheel is no kind of car."""

    def __init__(self, content: Any, where: str):
        name = content.get("LabelName", content.get("name")) if isinstance(content, dict) else None
        if not isinstance(name, str):
            raise DataError(f'{where}: should be {{"LabelName": MID, "Subcategory": [...]}}')
        self.name = name
        kinds = content.get("Subcategory", content.get("children", []))
        if not isinstance(kinds, list):
            raise DataError(f"{where}.{name}: its Subcategory should be a list")
        self.kinds = [Node(kind, f"{where}.{name}") for kind in kinds]


def read_hierarchy(metadata: Metadata) -> Node:
    """The root of the published hierarchy; names in it are MIDs or descriptions."""
    name = metadata.need("hierarchy", HIERARCHY)
    try:
        return Node(json.loads(metadata.read(name)), f"{metadata.url}/{name}")
    except json.JSONDecodeError as error:
        raise DataError(f"{metadata.url}/{name}: line {error.lineno}: {error.msg}") from None
