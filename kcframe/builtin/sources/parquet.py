"""Data source `parquet`: files with a column of encoded pictures and one of labels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kcframe.errors import DataError, did_you_mean
from kcframe.pictures.labelled import LabelledPictures, LabelledSplit
from kcframe.pictures.labelled_options import ParquetOptions
from kcframe.pictures.stores.disk_cache import GIB, KEPT
from kcframe.pictures.stores.files import StorageFiles, find_files
from kcframe.pictures.stores.pictures import picture_cache
from kcframe.pictures.stores.row_groups import RowGroups, opened
from kcframe.storage.remote import PAUSES_AT_FIRST, explained, marks_of, patiently

AT_ONCE = 16  # files whose labels are read in parallel


class Parquet(LabelledPictures):
    """Leaves out rows without a label; replaces class numbers by the names in the files' schema."""

    name = "parquet"
    Options = ParquetOptions
    options: ParquetOptions

    def read(self, split: str) -> LabelledSplit:
        options = self.options
        files = find_files(getattr(options, split), f"data.options.{split}", options.anonymous)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            contents = list(pool.map(lambda number: _read(files, number, options), range(len(files.paths))))
        for number, content in enumerate(contents):
            if content.names != contents[0].names:
                raise DataError(
                    f"{files.urls[number]}: its schema has other class names for '{options.label}' than "
                    f"{files.urls[0]}"
                )
        labels = pa.concat_arrays([content.labels for content in contents])
        counts = pc.fill_null(pc.list_value_length(labels), 0).to_numpy()
        if not counts.any():
            where = f"{files.urls[0]}{' …' if len(files.urls) > 1 else ''}"
            raise DataError(f"{where}: no row with a label in column '{options.label}'")
        has_label = counts > 0
        offsets = np.r_[0, np.cumsum(counts[has_label])].astype(np.int32)
        cache = picture_cache(options)
        assert cache is not None  # its options ask for one
        store = RowGroups(
            files,
            options.image,
            np.concatenate([content.places(number) for number, content in enumerate(contents)])[has_label],
            [content.groups for content in contents],
            [content.marks for content in contents],
            cache=cache,
            anonymous=options.anonymous,
        )
        return LabelledSplit(
            store,
            pa.ListArray.from_arrays(offsets, labels.flatten()),
            int((~has_label).sum()),
            files.shown,
            contents[0].names,
        )

    def check(self, splits: Mapping[str, LabelledSplit]) -> None:
        cache = self.options.cache_gib
        need = sum(cast(RowGroups, split.store).unpacked for split in splits.values()) / GIB
        if need > KEPT * cache:
            raise DataError(
                f"data.options.cache_gib: {cache:g} are too few: {KEPT:.0%} of them always stay, and the "
                f"pictures of the two splits, unpacked to be read in any order, are {need:.2g} GiB: give "
                f"{math.ceil(10 * need / KEPT) / 10:g}, or convert the files to tar shards (webdataset)"
            )


class _File(NamedTuple):
    """The labels and the layout of one file.

    labels: list<string> [n]. groups: (rows, compressed bytes, bytes) of each row group's pictures. marks:
    texts that change when the file does. names: the schema's class names for label numbers, or None.
    """

    labels: pa.ListArray
    groups: list[tuple[int, int, int]]
    marks: list[str]
    names: list[str] | None

    def places(self, number: int) -> np.ndarray:
        """int64 [n, 3]: file, row group, row in it."""
        rows = np.array([group[0] for group in self.groups], np.int64)
        group = np.repeat(np.arange(len(rows)), rows)
        row = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)
        return np.stack([np.full(len(group), number), group, row], 1)


def _read(files: StorageFiles, number: int, options: ParquetOptions) -> _File:
    url = files.urls[number]
    try:
        return patiently(lambda: _of_file(files, number, options), PAUSES_AT_FIRST if "://" in url else ())
    except DataError:
        raise
    except pa.ArrowInvalid as error:
        raise DataError(f"{url}: no Parquet file, or damaged: {error}") from None
    except Exception as error:  # each storage raises its own
        raise DataError(f"{url}: cannot be read: {explained(error)}") from None


def _of_file(files: StorageFiles, number: int, options: ParquetOptions) -> _File:
    url = files.urls[number]
    with opened(files.storage, files.paths[number]) as file:
        schema, metadata = file.schema_arrow, file.metadata
        for option, column in (("image", options.image), ("label", options.label)):
            if column not in schema.names:
                near = did_you_mean(column, schema.names)
                raise DataError(f"{url}: no column '{column}' (data.options.{option}); {near}")
        kind, label_kind = schema.field(options.image).type, schema.field(options.label).type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise DataError(
                f"{url}: column '{options.image}' is of {kind}: it should hold the bytes of encoded pictures"
            )
        column = file.read([options.label])[options.label].combine_chunks()
        labels = _as_lists(column, f"{url}: column '{options.label}' is of {label_kind}")
        if labels.flatten().null_count:
            raise DataError(f"{url}: an empty (null) label in a list in column '{options.label}'")
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        sizes = [_sizes(group, options.image) for group in groups]
        marks = marks_of(files.storage.info(files.paths[number]))
        return _File(labels, sizes, marks, _names(schema.metadata, options.label))


def _as_lists(column: pa.Array, what: str) -> pa.ListArray:
    """list<string> [n], with an empty list for null. what: begins the error for a column without labels."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    item = kind.value_type if is_list else kind
    if not (pa.types.is_string(item) or pa.types.is_large_string(item) or pa.types.is_integer(item)):
        raise DataError(f"{what}: it should hold texts or numbers, or lists of them")
    if is_list:
        counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        values = column.flatten()
    else:
        counts = column.is_valid().to_numpy(zero_copy_only=False).astype(np.int64)
        values = column.drop_null()
    offsets = np.r_[0, np.cumsum(counts)].astype(np.int32)
    return pa.ListArray.from_arrays(offsets, values.cast(pa.string()))


def _sizes(group: pq.RowGroupMetaData, image: str) -> tuple[int, int, int]:
    packed = unpacked = 0
    for number in range(group.num_columns):
        column = group.column(number)
        if f"{column.path_in_schema}.".startswith(f"{image}."):
            packed += column.total_compressed_size
            unpacked += column.total_uncompressed_size
    return group.num_rows, packed, unpacked


def _names(metadata: dict[bytes, bytes] | None, label: str) -> list[str] | None:
    """The class names that Hugging Face's `datasets` writes into the schema for a column of class numbers."""
    try:
        feature: Any = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]
        if isinstance(feature, list):
            (feature,) = feature
        names = feature.get("feature", feature)["names"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return [normalize("NFC", str(name).strip()) for name in names]
