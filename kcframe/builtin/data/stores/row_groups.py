"""Pictures in Parquet files. A row cannot be read without its row group, so these are unpacked once, into a
cache on this machine's disk, from which pictures are read in any order."""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kcframe.builtin.data.stores.disk_cache import GIB, KEPT, DiskCache
from kcframe.builtin.data.stores.files import Found
from kcframe.builtin.data.stores.store import Store
from kcframe.errors import DataError
from kcframe.storage import PAUSES, patiently

TRIES = 5
OPEN = 64  # unpacked row groups that a process holds open


@contextmanager
def opened(storage: fsspec.AbstractFileSystem, path: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file of any storage. Arrow knows what it wants next: nothing is read ahead for it."""
    with (
        storage.open(path, "rb", cache_type="none") as stream,
        pq.ParquetFile(stream, pre_buffer=True) as file,
    ):
        yield file


class RowGroups(Store):
    """Pictures that are rows of Parquet files."""

    def __init__(
        self,
        files: Found,
        column: str,
        places: np.ndarray,
        groups: Sequence[Sequence[tuple[int, int, int]]],
        cache: DiskCache,
        anonymous: bool = False,
    ):
        """column: of the pictures. places: int64 [n, 3]: file, row group, row. groups: of each file, each row
        group's (rows, compressed bytes, bytes). DataError if the cache is too small for all of them."""
        super().__init__(files.root, anonymous)
        self.paths, self.urls, self.column, self.places = files.paths, files.urls, column, places
        self.groups, self.cache = groups, cache
        every = [group for own in groups for group in own]
        self.requests = len(every) / max(len(places), 1)
        unpacked = sum(group[2] for group in every)
        if unpacked > KEPT * cache.max_bytes:
            raise DataError(
                f"{files.urls[0]} …: unpacked, its pictures are {unpacked / GIB:.1f} GiB, and "
                f"data.options.cache_gib is {cache.max_bytes / GIB:g}, of which {KEPT:.0%} always stay: for "
                "pictures in any order give more, or convert the files to tar shards (webdataset)"
            )
        try:
            cache.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=cache.folder):
                pass
        except OSError as error:
            raise DataError(
                f"data.options.cache: {cache.folder}: cannot be written: {error.strerror}; give another"
            ) from None
        self._open: tuple[int, OrderedDict[tuple[int, int], pa.Array]] | None = None

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"_open": None}

    def name(self, index: int) -> str:
        file, group, row = self.places[index].tolist()
        return f"{self.urls[file]}: row {row + sum(each[0] for each in self.groups[file][:group]):,}"

    def size(self, index: int) -> int:
        file, group, _ = self.places[index].tolist()
        rows, packed, _ = self.groups[file][group]
        return packed // max(rows, 1)

    def keeps(self, total: float) -> bool:
        return True

    def read(self, index: int) -> bytes:
        file, group, row = self.places[index].tolist()
        data = self._pictures(file, group)[row].as_py()
        if data is None:
            raise FileNotFoundError(self.name(index))
        return data

    def _pictures(self, file: int, group: int) -> pa.Array:
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), OrderedDict())
        held = self._open[1]
        found = held.get((file, group))
        if found is None:
            found = self._unpacked(file, group)
            held[file, group] = found
            while len(held) > OPEN:
                held.popitem(last=False)
        return found

    def _unpacked(self, file: int, group: int) -> pa.Array:
        key = f"{self.urls[file]}\n{group}\n{self.column}\n{self.groups[file]}"
        for _ in range(TRIES):
            path = self.cache.file(key, lambda part: self._unpack(file, group, part))
            with suppress(FileNotFoundError):  # another run's limit has just deleted it
                return pa.ipc.open_file(pa.memory_map(str(path))).read_all()["picture"].chunk(0)
        raise OSError(f"{path} was deleted {TRIES} times while it was opened: give other runs another cache")

    def _unpack(self, file: int, group: int, part: Path) -> None:
        def fetch() -> pa.Array:
            with opened(self.storage, self.paths[file]) as parquet:
                return parquet.read_row_group(group, [self.column])[self.column].combine_chunks()

        found = patiently(fetch, PAUSES if self.remote else ())
        if pa.types.is_struct(found.type):
            found = pc.struct_field(found, "bytes")
        table = pa.table({"picture": found.cast(pa.large_binary())})
        with pa.ipc.new_file(part, table.schema) as writer:
            writer.write_table(table)
