"""Data source `webdataset`: tar shards in which a picture and its label have one name with two endings."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kcframe.errors import DataError
from kcframe.interfaces.toolkit.pictures import ENDINGS
from kcframe.pictures.labelled import Given, LabelledPictures
from kcframe.pictures.labelled_options import WebDatasetOptions
from kcframe.pictures.stores.files import find_files
from kcframe.pictures.stores.pictures import picture_cache
from kcframe.pictures.stores.tar import TarMembers, list_members, places_of

NAME = r"^(?P<key>(?:.*/)?[^/.]+)\.(?P<ending>[^/]+)$"


class WebDataset(LabelledPictures):
    """A sample is what has one name up to its first dot, in one shard; its first picture and one label member
    count."""

    name = "webdataset"
    Options = WebDatasetOptions

    def read(self, split: str) -> Given:
        options = self.options
        shards = find_files(getattr(options, split), f"data.options.{split}", options.anonymous)
        members = list_members(shards, (options.label,), options.cache)
        names = members["name"].combine_chunks()
        parts = pc.extract_regex(names, NAME)
        ending = pc.utf8_lower(pc.struct_field(parts, "ending"))
        shard = pc.cast(members["shard"].combine_chunks(), pa.string())
        # In two shards one name is two samples.
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
        kept = pictures.to_numpy()[labelled]
        texts = members["text"].combine_chunks().take(labels.take(pc.drop_null(of_picture)))

        def store_of(rows: np.ndarray) -> TarMembers:
            own = names.take(pa.array(rows))
            return TarMembers(
                shards, own, places_of(members, rows), options.anonymous, picture_cache(options)
            )

        store = store_of(kept)
        said = _labels(texts, options, store)
        some = pc.list_value_length(said).to_numpy() > 0
        if not some.all():
            store, said = store_of(kept[some]), said.filter(pa.array(some))
        return Given(store, said, len(pictures) - len(said), shards.shown)


def _first_of_each(key: pa.Array, rows: pa.Array) -> pa.Array:
    """Of pictures with one key, the first."""
    encoded = key.take(rows).dictionary_encode().indices.to_numpy()
    return rows.take(pa.array(np.sort(np.unique(encoded, return_index=True)[1])))


def _rows(wanted: pa.Array) -> pa.Array:
    return pa.array(np.flatnonzero(pc.fill_null(wanted, False).to_numpy(zero_copy_only=False)))


def _labels(texts: pa.Array, options: WebDatasetOptions, store: TarMembers) -> pa.ListArray:
    """texts: binary [n]. list<string> [n], empty where JSON says that there is no label. DataError, naming
    the picture, for one that cannot be read."""
    read = _of_json if options.label.endswith("json") else _of_text
    found = []
    for image, text in enumerate(texts):
        try:
            own = read(text.as_py().decode("utf-8-sig"), options.field)
            for each in own:
                each.encode()  # JSON can say what is no text: half a character
        except (ValueError, RecursionError) as error:
            said = "is nested too deep" if isinstance(error, RecursionError) else error
            raise DataError(f"{store.name(image)}: its .{options.label} member: {said}") from None
        found.append(own)
    return pa.array(found, pa.list_(pa.string()))


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
    if not all(isinstance(each, str | int) and not isinstance(each, bool) for each in labels):
        raise ValueError(f"'{field}' is no text or number, or a list of them: {str(value)[:80]}")
    return [str(each) for each in labels]
