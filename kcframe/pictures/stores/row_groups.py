"""Pictures in Parquet files.

A row cannot be read without its whole row group. So each row group is unpacked once, into a cache on this
machine's disk, and pictures are read from there in any order.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Semaphore

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kcframe.errors import DataError, KcframeError, StorageError
from kcframe.pictures.stores.disk_cache import DiskCache
from kcframe.pictures.stores.files import StorageFiles
from kcframe.pictures.stores.store import Store
from kcframe.storage.remote import PAUSES, patiently

OPEN = 64  # unpacked row groups that a process holds open
UNPACKED_AT_ONCE = 2  # row groups per process: each is in memory, compressed, while it is unpacked
ROWS = 256  # rows that are unpacked together
SAID_EVERY = 300.0  # seconds between two marks that a cached file is in use


@contextmanager
def opened(storage: fsspec.AbstractFileSystem, path: str) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file of any storage. No read-ahead: Arrow itself requests what it needs next."""
    with (
        storage.open(path, "rb", cache_type="none") as stream,
        pq.ParquetFile(stream, pre_buffer=True) as file,
    ):
        yield file


@dataclass
class _OfProcess:
    """The state of one process: open files and locks do not survive a fork."""

    pid: int
    groups: OrderedDict[tuple[int, int], tuple[pa.ChunkedArray, float]] = field(default_factory=OrderedDict)
    unpacking: Semaphore = field(default_factory=lambda: Semaphore(UNPACKED_AT_ONCE))


class _NotRead(Exception):
    """Wraps an error of the storage, so that it is not taken for one of the cache."""

    def __init__(self, error: Exception):
        self.error = error


class RowGroups(Store):
    """Pictures that are rows of Parquet files."""

    def __init__(
        self,
        files: StorageFiles,
        column: str,
        places: np.ndarray,
        groups: Sequence[Sequence[tuple[int, int, int]]],
        marks: Sequence[Sequence[str]],
        *,
        cache: DiskCache,
        anonymous: bool = False,
    ):
        """column: the column with the pictures. places: int64 [n, 3]: file, row group, row. groups: for each
        file, (rows, compressed bytes, bytes) of each row group. marks: for each file, texts that change when
        the file does. Raises DataError if the cache cannot be written.
        """
        super().__init__(files.root, anonymous)
        self.paths, self.urls, self.column, self.places = files.paths, files.urls, column, places
        self.groups, self.marks, self.cache = groups, marks, cache
        every = [group for file_groups in groups for group in file_groups]
        self.requests = len(every) / max(len(places), 1)
        self.unpacked = sum(group[2] for group in every)
        try:
            cache.claim()
            with tempfile.TemporaryFile(dir=cache.folder):
                pass
        except OSError as error:
            raise DataError(
                f"data.options.cache: {cache.folder}: cannot be written: {error.strerror}; give another"
            ) from None
        self._of_process: _OfProcess | None = None

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"_of_process": None}

    def name(self, index: int) -> str:
        file, group, row = self.places[index].tolist()
        return f"{self.urls[file]}: row {row + sum(rows for rows, _, _ in self.groups[file][:group]):,}"

    def size(self, index: int) -> int:
        file, group, _ = self.places[index].tolist()
        rows, packed, _ = self.groups[file][group]
        return packed // max(rows, 1)

    @property
    def room(self) -> float:
        return math.inf  # the data source has checked that all pictures fit

    def read(self, index: int) -> bytes:
        file, group, row = self.places[index].tolist()
        data = self._pictures(file, group)[row].as_py()
        if data is None:
            raise FileNotFoundError(self.name(index))
        return data

    def _pictures(self, file: int, group: int) -> pa.ChunkedArray:
        if self._of_process is None or self._of_process.pid != os.getpid():
            self._of_process = _OfProcess(os.getpid())
        held = self._of_process.groups
        pictures, used = held.get((file, group), (None, 0.0))
        now = time.monotonic()
        if pictures is None:
            pictures = self._unpacked(file, group, self._of_process.unpacking)
            held[file, group] = pictures, now
            while len(held) > OPEN:
                held.popitem(last=False)
        elif now - used > SAID_EVERY:
            self.cache.used(self._key(file, group))
            held[file, group] = pictures, now
        return pictures

    def _key(self, file: int, group: int) -> str:
        return "\n".join([self.root, self.paths[file], *self.marks[file], str(group), self.column])

    def _unpacked(self, file: int, group: int, unpacking: Semaphore) -> pa.ChunkedArray:
        def unpack(part: Path) -> None:
            try:
                with unpacking:
                    patiently(lambda: self._unpack(file, group, part), PAUSES if self.remote else ())
            except KcframeError:
                raise
            except Exception as error:  # each storage raises its own
                raise _NotRead(error) from None

        try:
            return self.cache.opened(self._key(file, group), _mapped, unpack)
        except _NotRead as raised:
            raise raised.error  # noqa: B904 (its own cause says whose credentials were refused)
        except OSError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> StorageError:
        return StorageError(
            f"data.options.cache: {self.cache.folder}: cannot be used: {error.strerror or error}; make room "
            "in it, or give another folder"
        )

    def _unpack(self, file: int, group: int, part: Path) -> None:
        schema = pa.schema({"picture": pa.large_binary()})
        try:
            with pa.ipc.new_file(part, schema) as writer:
                for pictures in self._batches(file, group):
                    writer.write_batch(pa.record_batch([pictures.cast(pa.large_binary())], schema=schema))
            with part.open("rb+") as written:
                os.fsync(written.fileno())
        except _NotRead as raised:
            raise raised.error  # noqa: B904
        except OSError as error:
            raise self._unusable(error) from None

    def _batches(self, file: int, group: int) -> Iterator[pa.Array]:
        """A row group's pictures in batches: all of them may be more bytes than one array can hold."""
        try:
            with opened(self.storage, self.paths[file]) as parquet:
                for batch in parquet.iter_batches(ROWS, row_groups=[group], columns=[self.column]):
                    column = batch.column(0)
                    yield pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
        except Exception as error:  # each storage raises its own
            raise _NotRead(error) from None


def _mapped(path: Path) -> pa.ChunkedArray:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()["picture"]
    except pa.ArrowInvalid:  # the machine stopped before the file was complete
        path.unlink()
        raise FileNotFoundError(path) from None
