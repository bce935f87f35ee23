"""Reads the labels of all images, from tables of tens of millions of rows, into arrays.

n images, L labels in all. An image's id has 16 hexadecimal digits and is stored as a 64-bit number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from kcframe.builtin.sources.open_images.files import Metadata
from kcframe.errors import DataError
from kcframe.pictures.label_arrays import expanded
from kcframe.storage.remote import PAUSES_AT_FIRST, explained, patiently
from kcframe.storage.writing import replacing

NOT_SAID = 4  # in place of a number of quarter turns, if the tables have none
FORMAT = "3"  # version of the cached files
BLOCK = 2**24  # bytes of a table that are parsed together
DIGITS = np.full(256, 255, np.uint8)
DIGITS[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
DIGITS[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)


@dataclass(frozen=True)
class Index:
    """The labels of n images.

    ids: uint64 [n], ascending. offsets: int64 [n+1], classes: int32 [L]: image i has the classes
    `classes[offsets[i]:offsets[i+1]]`, ascending, without duplicates, with ancestors; they are indices into
    the MIDs. turns: uint8 [n], quarter turns counterclockwise that make the image upright, or NOT_SAID.
    absent_offsets, absent: in the same form, the classes that are verified absent, with all their subclasses;
    None if they were not read. confidences: float32 [L], of the labels; None if all have the same weight.
    """

    ids: np.ndarray
    offsets: np.ndarray
    classes: np.ndarray
    turns: np.ndarray
    absent_offsets: np.ndarray | None = None
    absent: np.ndarray | None = None
    confidences: np.ndarray | None = None


def image_name(ids: np.ndarray, image: int) -> str:
    """An image's id as Open Images writes it."""
    return f"{int(ids[image]):016x}"


@dataclass(frozen=True)
class Tables:
    """The tables from which an index is made, and how they are read.

    files: label tables (ImageID,Source,LabelName,Confidence). images: the table of rotations, or None. mids:
    the classes that are read. above: for each of them, itself and all its ancestors, as indices into `mids`.
    min_confidence: labels below are left out. with_absent: whether labels of confidence 0 are read as absent
    classes. weighted: whether the index has confidences.

    If a person has verified a class as absent, a machine's label for it does not count. If it is verified as
    present and as absent, it is present.
    """

    metadata: Metadata
    files: tuple[str, ...]
    images: str | None
    mids: tuple[str, ...]
    above: Sequence[Sequence[int]]
    min_confidence: float
    with_absent: bool = False
    weighted: bool = False

    def fingerprint(self) -> str:
        """A text that changes when one of the fields or tables does."""
        how = (self.min_confidence, self.with_absent, self.weighted)
        parts = [FORMAT, repr(how), *self.mids, json.dumps(self.above)]
        tables = self.files if self.images is None else (*self.files, self.images)
        parts += [self.metadata.fingerprint(file) for file in tables]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def cached_index(tables: Tables, folder: str | None) -> Index:
    """`build_index`, or its result from the cache in `folder` on this machine. folder None: no cache."""
    if folder is None:
        return build_index(tables)
    path = Path(folder).expanduser() / "open-images" / f"{tables.fingerprint()}.safetensors"
    if (index := _cached(path)) is not None:
        return index
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # All processes of a machine start together: one reads the tables, the others wait for it.
        with FileLock(path.with_suffix(".lock")):
            if (index := _cached(path)) is not None:
                return index
            index = build_index(tables)
            with replacing(path) as part:
                save_file({name: array for name, array in vars(index).items() if array is not None}, part)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"data.options.cache: {path}: cannot be written: {reason}; give another folder, or null for none"
        ) from None
    return index


def _cached(path: Path) -> Index | None:
    """The index in a cache file; None if there is none, or it is damaged."""
    try:
        return Index(**load_file(path))
    except (OSError, SafetensorError, TypeError):
        return None


def build_index(tables: Tables) -> Index:
    """Reads the tables. Leaves out labels of other classes, and images without a label."""
    metadata, mids = tables.metadata, pa.array(tables.mids, pa.string())
    # Compare as float32: 0.9 in a file is not below 0.9 in a recipe.
    least = pa.scalar(np.float32(tables.min_confidence), pa.float32())
    columns = {"ImageID": pa.string(), "LabelName": pa.string(), "Confidence": pa.float32()}
    present, absent = _Rows(), _Rows()
    unsure = tables.min_confidence < 1
    for file in tables.files:

        def read(file: str = file) -> None:
            present.back_to(file)
            absent.back_to(file)
            line = 2
            for batch in _table(metadata, file, columns):
                place = pc.index_in(batch["LabelName"], value_set=mids)
                confidence = batch["Confidence"]
                ids = _Ids(batch["ImageID"], metadata, file, line)
                line += len(batch)
                present.add(ids, place, pc.greater_equal(confidence, least), confidence if unsure else None)
                if tables.with_absent or unsure:
                    absent.add(ids, place, pc.equal(confidence, 0))

        _patiently(read, metadata, file)
    every, labels, sure = present.sorted()
    if not len(every):
        raise DataError(
            f"{metadata.url}: no label in {', '.join(tables.files)} is of a known class with a confidence of "
            f"{tables.min_confidence} or more"
        )
    gone, gone_labels, _ = absent.sorted()
    image_ids = np.union1d(every, gone) if tables.with_absent else np.unique(every)
    below, num_classes = _turned_round(tables.above), len(tables.mids)
    offsets, gone_offsets = (_offsets(image_ids, ids) for ids in (every, gone))
    if len(gone) and not tables.with_absent:  # these include images that have no label
        in_index = np.isin(gone, image_ids)
        gone_offsets, gone_labels = _offsets(image_ids, gone[in_index]), gone_labels[in_index]
    del every, gone
    ends, kinds, _ = expanded(gone_offsets, gone_labels, below)
    if sure is not None:
        offsets, labels, sure = _verified_first(offsets, labels, sure, ends, kinds, num_classes=num_classes)
    turns = np.full(len(image_ids), NOT_SAID, np.uint8)
    if tables.images is not None:
        add_turns = partial(_add_turns, turns, image_ids, metadata, tables.images)
        _patiently(add_turns, metadata, tables.images)
    offsets, classes, sure = expanded(offsets, labels, tables.above, sure)
    if not tables.weighted:
        sure = None
    if not tables.with_absent:
        return Index(image_ids, offsets, classes, turns, confidences=sure)
    absent_offsets, absent_classes = _without(ends, kinds, offsets, classes, num_classes)
    return Index(
        ids=image_ids,
        offsets=offsets,
        classes=classes,
        turns=turns,
        absent_offsets=absent_offsets,
        absent=absent_classes,
        confidences=sure,
    )


def _offsets(image_ids: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """int64 [n+1]: the start of each image's rows in `ids`, ascending, which has no other images."""
    return np.r_[np.searchsorted(ids, image_ids), len(ids)].astype(np.int64)


def _patiently(read: Callable[[], None], metadata: Metadata, file: str) -> None:
    """Calls `read`, again from the beginning if the connection is lost. Raises DataError with the file's name
    if that does not help."""
    try:
        patiently(read, PAUSES_AT_FIRST if "://" in metadata.url else ())
    except DataError:
        raise
    except Exception as error:  # each storage raises its own
        raise DataError(f"{metadata.url}/{file}: cannot be read: {explained(error)}") from None


@dataclass(frozen=True)
class _Ids:
    """The column of image ids of one batch. line: line number of its first row in the file."""

    column: pa.Array
    metadata: Metadata
    file: str
    line: int

    def numbers(self, chosen: pa.Array) -> np.ndarray:
        """The chosen ids as uint64. Raises DataError, naming the line, for one that is no id."""
        numbers, odd = image_numbers(pc.filter(self.column, chosen))
        if odd is None:
            return numbers
        row = int(np.flatnonzero(chosen.to_numpy(zero_copy_only=False))[odd])
        raise DataError(
            f"{self.metadata.url}/{self.file}: line {self.line + row}: ImageID "
            f"'{self.column[row].as_py()}' is not 16 hexadecimal digits"
        )


class _Rows:
    """Collects (image id, class) pairs with their confidences."""

    def __init__(self) -> None:
        self.ids, self.classes = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        self.confidences: list[np.ndarray] = []
        self._before: dict[str, int] = {}

    def back_to(self, file: str) -> None:
        """Forgets all pairs since the first call for this file, so that the file can be read again."""
        length = self._before.setdefault(file, len(self.ids))
        del self.ids[length:], self.classes[length:], self.confidences[max(length - 1, 0) :]

    def add(self, ids: _Ids, place: pa.Array, wanted: pa.Array, confidence: pa.Array | None = None) -> None:
        """Adds the rows that are wanted and whose class is known (place is not null)."""
        chosen = pc.fill_null(pc.and_(wanted, pc.is_valid(place)), False)
        self.ids.append(ids.numbers(chosen))
        self.classes.append(pc.filter(place, chosen).to_numpy(zero_copy_only=False).astype(np.int32))
        if confidence is not None:
            self.confidences.append(pc.filter(confidence, chosen).to_numpy(zero_copy_only=False))

    def sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(ids, classes, confidences), ascending, each pair once, with its highest confidence."""
        ids, classes = np.concatenate(self.ids), np.concatenate(self.classes)
        sure = np.concatenate(self.confidences) if self.confidences else None
        order = np.lexsort((classes, ids) if sure is None else (-sure, classes, ids))
        ids, classes = ids[order], classes[order]
        fresh = np.ones(len(ids), bool)
        fresh[1:] = (ids[1:] != ids[:-1]) | (classes[1:] != classes[:-1])
        return ids[fresh], classes[fresh], None if sure is None else sure[order][fresh]


def _turned_round(above: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each class, itself and all its descendants: if no animal is there, no kind of animal is."""
    below: list[list[int]] = [[] for _ in above]
    for kind, parents in enumerate(above):
        for parent in parents:
            below[parent].append(kind)
    return below


def _without(
    offsets: np.ndarray, classes: np.ndarray, other_offsets: np.ndarray, other: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, classes) without the pairs of the other arrays: a class that is present is not absent."""
    mine = _pairs(offsets, classes, num_classes)
    theirs = _pairs(other_offsets, other, num_classes)
    remaining = np.setdiff1d(mine, theirs, assume_unique=True)
    counts = np.bincount(remaining // num_classes, minlength=len(offsets) - 1)
    return np.r_[0, np.cumsum(counts)].astype(np.int64), (remaining % num_classes).astype(np.int32)


def _pairs(offsets: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """int64: each (image, class) pair as one number, ascending."""
    return np.repeat(np.arange(len(offsets) - 1) * num_classes, np.diff(offsets)) + classes


def _verified_first(
    offsets: np.ndarray,
    labels: np.ndarray,
    sure: np.ndarray,
    gone_offsets: np.ndarray,
    gone: np.ndarray,
    *,
    num_classes: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(offsets, labels, confidences) without labels below confidence 1 of classes verified absent."""
    mine = _pairs(offsets, labels, num_classes)
    theirs = _pairs(gone_offsets, gone, num_classes)
    remaining = (sure >= 1) | ~np.isin(mine, theirs)
    counts = np.bincount(mine[remaining] // num_classes, minlength=len(offsets) - 1)
    return np.r_[0, np.cumsum(counts)].astype(np.int64), labels[remaining], sure[remaining]


def _add_turns(turns: np.ndarray, ids: np.ndarray, metadata: Metadata, file: str) -> None:
    columns = {"ImageID": pa.string(), "Rotation": pa.float32()}
    line = 2
    for batch in _table(metadata, file, columns, optional=("Rotation",)):
        if "Rotation" not in batch.schema.names:
            return  # V3 has no rotations
        has_turn = pc.is_valid(batch["Rotation"])
        numbers = _Ids(batch["ImageID"], metadata, file, line).numbers(has_turn)
        line += len(batch)
        quarter = pc.filter(batch["Rotation"], has_turn).to_numpy(zero_copy_only=False) / 90
        places = np.searchsorted(ids, numbers).clip(0, len(ids) - 1)
        in_index = ids[places] == numbers
        turns[places[in_index]] = quarter[in_index].astype(np.int64) % 4


def _table(
    metadata: Metadata, file: str, columns: dict[str, pa.DataType], optional: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """A table's columns in batches. Raises DataError, naming the file, if a required column is missing."""
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


def image_numbers(ids: pa.Array) -> tuple[np.ndarray, int | None]:
    """(strings of 16 hexadecimal digits as uint64, index of the first string that is none, or None).

    ids: without null. If there is such an index, the array is empty.
    """
    if not len(ids):
        return np.empty(0, np.uint64), None
    lengths = pc.binary_length(ids)
    if pc.min(lengths).as_py() != 16 or pc.max(lengths).as_py() != 16:
        return np.empty(0, np.uint64), int(pc.index(pc.not_equal(lengths, 16), True).as_py())
    # All have one length, so their bytes are contiguous: read them without one Python object per string.
    _, offsets, text = ids.buffers()
    start = np.frombuffer(offsets, np.int32)[ids.offset]
    digits = DIGITS[np.frombuffer(text, np.uint8, 16 * len(ids), start)].reshape(-1, 16)
    if digits.max() == 255:
        return np.empty(0, np.uint64), int(np.flatnonzero((digits == 255).any(1))[0])
    bytes_ = digits[:, ::2] << 4 | digits[:, 1::2]
    return np.ascontiguousarray(bytes_).view(">u8").astype(np.uint64).reshape(-1), None
