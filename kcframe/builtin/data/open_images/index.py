"""Which image has which labels, from tables of tens of millions of rows, in arrays.

n images, L labels of them. An image's id is 16 hexadecimal digits, kept as a 64-bit number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from kcframe.builtin.data.open_images.files import Metadata
from kcframe.errors import DataError
from kcframe.storage import PAUSES_AT_FIRST, patiently, replacing

NOT_SAID = 4  # instead of a number of quarter turns
FORMAT = "2"  # of the cached files
BLOCK = 2**24  # bytes of a table that are looked at together
IMAGES_AT_ONCE = 1_000_000  # whose labels get their ancestors together
DIGITS = np.full(256, 255, np.uint8)
DIGITS[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
DIGITS[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)


@dataclass(frozen=True)
class Index:
    """ids: uint64 [n], ascending. offsets: int64 [n+1], classes: int32 [L]: image i has
    `classes[offsets[i]:offsets[i+1]]`, ascending, each once, with ancestors; places among the MIDs.
    turns: uint8 [n], quarter turns counterclockwise that make it upright, or NOT_SAID. absent_offsets,
    absent: likewise the classes that are verified absent, with all their kinds; None if nobody asks."""

    ids: np.ndarray
    offsets: np.ndarray
    classes: np.ndarray
    turns: np.ndarray
    absent_offsets: np.ndarray | None = None
    absent: np.ndarray | None = None


def image_name(ids: np.ndarray, image: int) -> str:
    """An image's id as Open Images writes it."""
    return f"{int(ids[image]):016x}"


@dataclass(frozen=True)
class Tables:
    """What an index is made of. files: label tables (ImageID,Source,LabelName,Confidence). images: the table
    of rotations, or None. mids: classes that count; above: each one and what it is a kind of, as places in
    `mids`. min_confidence: labels below are left out. with_absent: whether confidence 0 is kept as well."""

    metadata: Metadata
    files: tuple[str, ...]
    images: str | None
    mids: tuple[str, ...]
    above: Sequence[Sequence[int]]
    min_confidence: float
    with_absent: bool = False

    def fingerprint(self) -> str:
        """Changes when anything of it does."""
        said = [FORMAT, repr(self.min_confidence), repr(self.with_absent), *self.mids, json.dumps(self.above)]
        tables = self.files if self.images is None else (*self.files, self.images)
        said += [self.metadata.fingerprint(file) for file in tables]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()[:32]


def cached_index(tables: Tables, folder: str | None) -> Index:
    """`build_index`, from this machine's cache if it is there. folder: of the cache; None: there is none."""
    if folder is None:
        return build_index(tables)
    path = Path(folder).expanduser() / "open-images" / f"{tables.fingerprint()}.safetensors"
    try:
        return Index(**load_file(path))
    except (OSError, SafetensorError, TypeError):
        pass  # not there yet, or damaged: made anew
    index = build_index(tables)
    try:
        with replacing(path) as part:
            save_file({name: array for name, array in vars(index).items() if array is not None}, part)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"data.options.cache: {path}: cannot be written: {reason}; give another folder, or null for none"
        ) from None
    return index


def build_index(tables: Tables) -> Index:
    """Read all of it. Labels of other classes are left out, and images without any."""
    metadata, known = tables.metadata, pa.array(tables.mids, pa.string())
    # 0.9 of a file is not below a recipe's.
    least = pa.scalar(np.float32(tables.min_confidence), pa.float32())
    columns = {"ImageID": pa.string(), "LabelName": pa.string(), "Confidence": pa.float32()}
    present, absent = _Rows(), _Rows()
    for file in tables.files:

        def read(file: str = file) -> None:
            present.back_to(file)
            absent.back_to(file)
            for batch in _table(metadata, file, columns):
                place = pc.index_in(batch["LabelName"], value_set=known)
                sure = pc.greater_equal(batch["Confidence"], least)
                present.add(batch["ImageID"], place, sure, metadata, file)
                if tables.with_absent:
                    absent.add(batch["ImageID"], place, pc.equal(batch["Confidence"], 0), metadata, file)

        _patiently(read, metadata, file)
    every, labels = present.sorted()
    if not len(every):
        raise DataError(
            f"{metadata.url}: no label in {', '.join(tables.files)} is of a known class with a confidence of "
            f"{tables.min_confidence} or more"
        )
    gone, gone_labels = absent.sorted()
    found = np.union1d(every, gone)
    offsets, gone_offsets = (_offsets(found, ids) for ids in (every, gone))
    del every, gone
    turns = np.full(len(found), NOT_SAID, np.uint8)
    if tables.images is not None:
        _patiently(lambda: _add_turns(turns, found, metadata, tables.images), metadata, tables.images)
    offsets, classes = _expanded(offsets, labels, tables.above)
    if not tables.with_absent:
        return Index(found, offsets, classes, turns)
    ends, kinds = _expanded(gone_offsets, gone_labels, _turned_round(tables.above))
    return Index(found, offsets, classes, turns, *_without(ends, kinds, offsets, classes, len(tables.mids)))


def _offsets(found: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """int64 [n+1]: where each image's rows begin in ascending `ids`, all of which are among `found`."""
    return np.r_[np.searchsorted(ids, found), len(ids)].astype(np.int64)


def _patiently(read: Callable[[], None], metadata: Metadata, file: str) -> None:
    """Read a table, from its beginning again where the connection is lost. DataError, naming it, if that does
    not help."""
    try:
        patiently(read, PAUSES_AT_FIRST if "://" in metadata.url else ())
    except DataError:
        raise
    except Exception as error:  # each storage raises its own
        raise DataError(f"{metadata.url}/{file}: cannot be read: {type(error).__name__}: {error}") from None


class _Rows:
    """(image id, class) pairs, as they come."""

    def __init__(self) -> None:
        self.ids, self.classes = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        self._before: dict[str, int] = {}

    def back_to(self, file: str) -> None:
        """Forget what has come since this was first said of a file."""
        length = self._before.setdefault(file, len(self.ids))
        del self.ids[length:], self.classes[length:]

    def add(self, ids: pa.Array, place: pa.Array, wanted: pa.Array, metadata: Metadata, file: str) -> None:
        """Those that are wanted and have a place."""
        kept = pc.fill_null(pc.and_(wanted, pc.is_valid(place)), False)
        self.ids.append(_numbers(pc.filter(ids, kept), metadata, file))
        self.classes.append(pc.filter(place, kept).to_numpy(zero_copy_only=False).astype(np.int32))

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """(ids, classes), ascending, each pair once."""
        ids, classes = np.concatenate(self.ids), np.concatenate(self.classes)
        order = np.lexsort((classes, ids))
        ids, classes = ids[order], classes[order]
        fresh = np.ones(len(ids), bool)
        fresh[1:] = (ids[1:] != ids[:-1]) | (classes[1:] != classes[:-1])
        return ids[fresh], classes[fresh]


def _turned_round(above: Sequence[Sequence[int]]) -> list[list[int]]:
    """Each class and what it is above: where an animal is absent, so are all its kinds."""
    below: list[list[int]] = [[] for _ in above]
    for each, parents in enumerate(above):
        for parent in parents:
            below[parent].append(each)
    return below


def _without(
    offsets: np.ndarray, classes: np.ndarray, other_offsets: np.ndarray, other: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, classes) without what the same images have in others: what is present is not absent."""
    num_images = len(offsets) - 1

    def pairs(ends: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.repeat(np.arange(num_images) * num_classes, np.diff(ends)) + values

    kept = np.setdiff1d(pairs(offsets, classes), pairs(other_offsets, other), assume_unique=True)
    counts = np.bincount(kept // num_classes, minlength=num_images)
    return np.r_[0, np.cumsum(counts)].astype(np.int64), (kept % num_classes).astype(np.int32)


def _expanded(
    offsets: np.ndarray, labels: np.ndarray, lists: Sequence[Sequence[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, classes) with each label replaced by its list, ascending, each once."""
    num_classes, num_images = len(lists), len(offsets) - 1
    counts = np.array([len(each) for each in lists])
    flat = np.array([number for each in lists for number in each], np.int64)
    first_of = np.r_[0, np.cumsum(counts)[:-1]]
    ends, classes = [np.zeros(1, np.int64)], [np.empty(0, np.int32)]
    for first in range(0, num_images, IMAGES_AT_ONCE):
        last = min(first + IMAGES_AT_ONCE, num_images)
        own = labels[offsets[first] : offsets[last]]
        rows = np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1]))
        many = counts[own]
        within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        pairs = np.repeat(rows * num_classes, many) + flat[np.repeat(first_of[own], many) + within]
        pairs.sort()
        pairs = pairs[np.diff(pairs, prepend=-1) != 0]
        classes.append((pairs % num_classes).astype(np.int32))
        in_image = np.bincount(pairs // num_classes, minlength=last - first)
        ends.append(ends[-1][-1] + np.cumsum(in_image))
    return np.concatenate(ends), np.concatenate(classes)


def _add_turns(turns: np.ndarray, ids: np.ndarray, metadata: Metadata, file: str) -> None:
    columns = {"ImageID": pa.string(), "Rotation": pa.float32()}
    for batch in _table(metadata, file, columns, optional=("Rotation",)):
        if "Rotation" not in batch.schema.names:
            return  # V3 knows of none
        said = pc.is_valid(batch["Rotation"])
        numbers = _numbers(pc.filter(batch["ImageID"], said), metadata, file)
        quarter = pc.filter(batch["Rotation"], said).to_numpy(zero_copy_only=False) / 90
        places = np.searchsorted(ids, numbers).clip(0, len(ids) - 1)
        known = ids[places] == numbers
        turns[places[known]] = quarter[known].astype(np.int64) % 4


def _table(
    metadata: Metadata, file: str, columns: dict[str, pa.DataType], optional: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """A table's columns, a part at a time. DataError, naming the file, if they are not in it."""
    where = f"{metadata.url}/{file}"
    with metadata.open(file) as stream:
        header = stream.readline().decode("utf-8-sig", "replace").strip().split(",")
        missing = [name for name in columns if name not in header]
        if wrong := [name for name in missing if name not in optional]:
            raise DataError(f"{where}: no column '{wrong[0]}': its first line is {','.join(header)[:120]}")
        there = {name: kind for name, kind in columns.items() if name not in missing}
        try:
            yield from pacsv.open_csv(
                stream,
                pacsv.ReadOptions(block_size=BLOCK, column_names=header),
                convert_options=pacsv.ConvertOptions(column_types=there, include_columns=list(there)),
            )
        except pa.ArrowInvalid as error:
            if "Empty CSV" not in str(error):
                raise DataError(f"{where}: {error}") from None


def _numbers(ids: pa.Array, metadata: Metadata, file: str) -> np.ndarray:
    """Strings of 16 hexadecimal digits as uint64."""
    if not len(ids):
        return np.empty(0, np.uint64)
    lengths = pc.binary_length(ids)
    if pc.min(lengths).as_py() != 16 or pc.max(lengths).as_py() != 16:
        odd = pc.filter(ids, pc.not_equal(lengths, 16))[0].as_py()
        raise DataError(f"{metadata.url}/{file}: ImageID '{odd}' is not 16 hexadecimal digits")
    # All of one length, they lie in one piece: the strings' own memory, without a Python object for each.
    _, offsets, text = ids.buffers()
    start = np.frombuffer(offsets, np.int32)[ids.offset]
    digits = DIGITS[np.frombuffer(text, np.uint8, 16 * len(ids), start)].reshape(-1, 16)
    if digits.max() == 255:
        odd = ids[int(np.flatnonzero((digits == 255).any(1))[0])].as_py()
        raise DataError(f"{metadata.url}/{file}: ImageID '{odd}' is not 16 hexadecimal digits")
    bytes_ = digits[:, ::2] << 4 | digits[:, 1::2]
    return np.ascontiguousarray(bytes_).view(">u8").astype(np.uint64).reshape(-1)
