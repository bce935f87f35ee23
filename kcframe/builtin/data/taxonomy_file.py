"""Taxonomies that people write: CSV and JSON files."""

from __future__ import annotations

import csv
import io

import fsspec
from pydantic import Field, ValidationError

from kcframe.errors import DataError
from kcframe.interfaces.options import PluginOptions
from kcframe.taxonomy import Taxonomy


class _TaxonomyFile(PluginOptions):
    verticals: dict[str, list[str]]
    parents: dict[str, list[str]] = Field(default_factory=dict)


def read_taxonomy(url: str) -> Taxonomy:
    """A CSV or JSON taxonomy file, told apart by their first character.

    CSV: header class,vertical[,parents]; a row for each vertical that a class stands in; `;` between
    parents. JSON: {"verticals": {name: [classes]}, "parents": {class: [classes]}} or `Taxonomy.to_json`.
    Raises DataError, naming the file and what is wrong in it.
    """
    try:
        with fsspec.open(url, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"data.options.taxonomy: no file '{url}'") from None
    except Exception as error:  # each storage raises its own
        raise DataError(f"{url}: cannot be read: {type(error).__name__}: {error}") from None
    try:
        if not text.lstrip().startswith("{"):
            return _from_csv(text)
        if '"kcframe_taxonomy"' in text:
            return Taxonomy.from_json(text)
        found = _TaxonomyFile.model_validate_json(text)
        return Taxonomy.build(found.verticals, found.parents)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{url}: {place + ': ' if place else ''}{first['msg']}") from None
    except (DataError, csv.Error) as error:
        raise DataError(f"{url}: {error}") from None


def _from_csv(text: str) -> Taxonomy:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    columns = [name.strip() for name in reader.fieldnames or ()]
    if sorted({*columns, "parents"}) != ["class", "parents", "vertical"]:
        raise DataError(
            f"the first line must be class,vertical or class,vertical,parents, not {','.join(columns)}"
        )
    reader.fieldnames = columns
    verticals: dict[str, list[str]] = {}
    parents: dict[str, dict[str, None]] = {}
    for row in reader:
        if len(row) != len(columns) or not all(row[column] for column in ("class", "vertical")):
            raise DataError(
                f"line {reader.line_num}: needs a class and a vertical, and {len(columns)} columns"
            )
        name = row["class"].strip()
        verticals.setdefault(row["vertical"].strip(), []).append(name)
        above = (parent.strip() for parent in (row.get("parents") or "").split(";"))
        parents.setdefault(name, {}).update((parent, None) for parent in above if parent)
    return Taxonomy.build(verticals, parents)
