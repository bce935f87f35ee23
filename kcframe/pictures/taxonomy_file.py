"""Reads taxonomies that people write: CSV and JSON files."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from itertools import zip_longest
from typing import Annotated, Any
from unicodedata import normalize

from pydantic import Field, StringConstraints, ValidationError

from kcframe.errors import DataError, did_you_mean
from kcframe.interfaces.options import PluginOptions
from kcframe.storage.remote import as_text, read_file, without_secrets
from kcframe.taxonomy import Taxonomy

Name = Annotated[str, StringConstraints(min_length=1)]


class _TaxonomyFile(PluginOptions):
    verticals: dict[Name, list[Name]]
    parents: dict[Name, list[Name]] = Field(default_factory=dict)


def read_taxonomy(url: str, option: str = "data.options.taxonomy", anonymous: bool = False) -> Taxonomy:
    """Reads a taxonomy file in CSV or JSON. A file that begins with { or [ is JSON.

    CSV: header class,vertical[,parents]; one row for each vertical that a class belongs to; `;` between
    parents. JSON: {"verticals": {name: [classes]}, "parents": {class: [classes]}} or `Taxonomy.to_json`.
    Names are converted to Unicode's form NFC, like the names of folders. option: the option that names the
    file, for errors. Raises DataError with the file, the line if it is known, and what is wrong.
    """
    shown = without_secrets(url)
    text = normalize("NFC", as_text(read_file(url, option, anonymous), shown))
    try:
        return _from_json(text) if text.lstrip().startswith(("{", "[")) else _from_csv(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{shown}: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise DataError(f"{shown}: its brackets are nested too deep") from None
    except DataError as error:
        raise DataError(f"{shown}: {error}") from None


def _from_json(text: str) -> Taxonomy:
    content = json.loads(text, object_pairs_hook=_each_name_once)
    if not isinstance(content, dict):
        raise DataError('a JSON file must be {"verticals": {name: [classes]}}')
    if "kcframe_taxonomy" in content:
        return Taxonomy.from_json(text)
    try:
        checked = _TaxonomyFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place, problem = ".".join(map(str, first["loc"])), first["msg"]
        if first["type"] == "extra_forbidden":
            problem = f"unknown; {did_you_mean(place, _TaxonomyFile.model_fields)}"
        raise DataError(f"{place}: {problem}") from None
    return Taxonomy.build(checked.verticals, checked.parents)


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise DataError(f"'{name}' is given {count} times, of which JSON would keep the last: join them")
    return dict(pairs)


def _from_csv(text: str) -> Taxonomy:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except csv.Error as error:
        raise DataError(f"line {reader.line_num}: {error} (is a quote open?)") from None
    columns = rows.pop(0)[1] if rows else []
    if sorted(columns) not in (["class", "vertical"], ["class", "parents", "vertical"]):
        raise DataError(
            f"the first line must be class,vertical or class,vertical,parents, not {','.join(columns)}"
        )
    lines: dict[tuple[str, str], int] = {}
    verticals: dict[str, list[str]] = {}
    parents: dict[str, dict[str, int]] = {}
    for line, row in rows:
        cells = dict(zip_longest(columns, row, fillvalue=""))
        name, vertical = cells["class"], cells["vertical"]
        if len(row) > len(columns) or not name or not vertical:
            raise DataError(f"line {line}: needs a class and a vertical, and {len(columns)} columns at most")
        if before := lines.get((vertical, name)):
            raise DataError(f"line {line}: class '{name}' stands in '{vertical}' already, in line {before}")
        lines[vertical, name] = line
        verticals.setdefault(vertical, []).append(name)
        for parent in filter(None, map(str.strip, cells.get("parents", "").split(";"))):
            parents.setdefault(name, {}).setdefault(parent, line)
    classes = dict.fromkeys(name for names in verticals.values() for name in names)
    for above in parents.values():
        for parent, line in above.items():
            if parent not in classes:
                near = did_you_mean(parent, classes)
                raise DataError(f"line {line}: the parent '{parent}' has no line of its own; {near}")
    return Taxonomy.build(verticals, parents)
