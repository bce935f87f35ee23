"""Data source `webdataset`: tar shards in which a picture and its label have one name but two endings."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kcframe.errors import DataError
from kcframe.interfaces.toolkit.pictures import ENDINGS
from kcframe.pictures.labelled import LabelledPictures, LabelledSplit
from kcframe.pictures.labelled_options import WebDatasetOptions
from kcframe.pictures.stores.files import find_files
from kcframe.pictures.stores.pictures import picture_cache
from kcframe.pictures.stores.tar import TarMembers, list_members, places_of

NAME = r"^(?P<key>(?:.*/)?[^/.]+)\.(?P<ending>[^/]+)$"


class WebDataset(LabelledPictures):
    """A sample is all members of one shard with the same name up to the first dot. Its first picture and one
    of its label members are used."""

    name = "webdataset"
    Options = WebDatasetOptions
    options: WebDatasetOptions

    def read(self, split: str) -> LabelledSplit:
        options = self.options
        shards = find_files(getattr(options, split), f"data.options.{split}", options.anonymous)
        members = list_members(shards, (options.label,), options.cache)
        names = members["name"].combine_chunks()
        parts = pc.extract_regex(names, NAME)
        ending = pc.utf8_lower(pc.struct_field(parts, "ending"))
        shard = pc.cast(members["shard"].combine_chunks(), pa.string())
        # The same name in two shards means two samples.
        key = pc.binary_join_element_wise(shard, pc.struct_field(parts, "key"), "\n")
        pictures = _first_of_each(key, _rows(pc.is_in(ending, value_set=pa.array(ENDINGS))))
        labels = _rows(pc.equal(ending, options.label))
        of_picture = pc.index_in(key.take(pictures), value_set=key.take(labels))
        labelled = pc.is_valid(of_picture).to_numpy(zero_copy_only=False)
        if not labelled.any():
            there = Counter(ending.to_pylist()[:1000]).most_common(5)
            raise DataError(
                f"{shards.urls[0]}: no picture with a label in a .{options.label} member beside it "
                f"(data.options.label); endings here: {', '.join(f'.{name}' for name, _ in there if name)}"
            )
        labelled_rows = pictures.to_numpy()[labelled]
        texts = members["text"].combine_chunks().take(labels.take(pc.drop_null(of_picture)))

        def store_of(rows: np.ndarray) -> TarMembers:
            picture_names = names.take(pa.array(rows))
            return TarMembers(
                shards, picture_names, places_of(members, rows), options.anonymous, picture_cache(options)
            )

        store = store_of(labelled_rows)
        label_lists = _labels(texts, options, store)
        some = pc.list_value_length(label_lists).to_numpy() > 0
        if not some.all():
            store, label_lists = store_of(labelled_rows[some]), label_lists.filter(pa.array(some))
        return LabelledSplit(store, label_lists, len(pictures) - len(label_lists), shards.shown)


def _first_of_each(key: pa.Array, rows: pa.Array) -> pa.Array:
    """The first row of each key."""
    encoded = key.take(rows).dictionary_encode().indices.to_numpy()
    return rows.take(pa.array(np.sort(np.unique(encoded, return_index=True)[1])))


def _rows(wanted: pa.Array) -> pa.Array:
    return pa.array(np.flatnonzero(pc.fill_null(wanted, False).to_numpy(zero_copy_only=False)))


def _labels(texts: pa.Array, options: WebDatasetOptions, store: TarMembers) -> pa.ListArray:
    """Label texts of each picture, list<string> [n]; empty if a JSON member has an empty list.

    texts: the label members, binary [n]. Raises DataError, naming the picture, if one cannot be read.
    """
    read = _of_json if options.label.endswith("json") else _of_text
    label_lists = []
    for image, text in enumerate(texts):
        try:
            labels = read(text.as_py().decode("utf-8-sig"), options.field)
            for label in labels:
                label.encode()  # JSON can contain half a character (a lone surrogate), which is not text
        except (ValueError, RecursionError) as error:
            problem = "is nested too deep" if isinstance(error, RecursionError) else error
            raise DataError(f"{store.name(image)}: its .{options.label} member: {problem}") from None
        label_lists.append(labels)
    return pa.array(label_lists, pa.list_(pa.string()))


def _of_text(text: str, _: str) -> list[str]:
    labels = [line.strip() for line in text.splitlines() if line.strip()]
    if not labels:
        raise ValueError("is empty")
    return labels


def _of_json(text: str, field: str) -> list[str]:
    content = json.loads(text)
    if not isinstance(content, dict) or field not in content:
        raise ValueError(f"has no field '{field}' (data.options.field)")
    value = content[field]
    labels = value if isinstance(value, list) else [value]
    if not all(isinstance(label, str | int) and not isinstance(label, bool) for label in labels):
        raise ValueError(f"'{field}' is no text or number, or a list of them: {str(value)[:80]}")
    return [str(label) for label in labels]
