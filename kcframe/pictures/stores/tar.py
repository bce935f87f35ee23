"""Pictures in tar shards, in any order: each shard is listed once, then each picture is one ranged read.

So an epoch is shuffled as freely as with single files, without a shuffle buffer. Libraries that stream shards
(webdataset) bind the order to the shards, and a resumed run to the state of the stream.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
from filelock import FileLock

from kcframe.errors import DataError
from kcframe.pictures.stores.disk_cache import DiskCache
from kcframe.pictures.stores.files import StorageFiles
from kcframe.pictures.stores.store import Place, PlacedStore
from kcframe.storage.remote import PAUSES_AT_FIRST, explained, marks_of, patiently
from kcframe.storage.writing import replacing

AT_ONCE = 16  # shards that are listed in parallel
BLOCK = 2**22  # bytes per request while a shard is listed
FORMAT = "2"  # version of the cached lists
BLOCK_OF_TAR = 512
SMALL = 2**20  # most bytes of a label member, which is read while the shard is listed
GZIP = b"\x1f\x8b"


def list_members(shards: StorageFiles, texts: Sequence[str], cache: str | None) -> pa.Table:
    """A table of all members of the shards.

    Columns: name (string), shard (int32), start and size in bytes (int64), and text (binary), the content of
    members with one of the endings `texts`, else null.

    cache: folder for the lists, or None; a shard that has changed is listed again. Raises DataError, naming
    the shard, if one is no tar file.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        numbered = range(len(shards.paths))
        tables = list(pool.map(lambda number: _cached_table(shards, number, texts, cache), numbered))
    numbers = [pa.array(np.full(len(table), number, np.int32)) for number, table in enumerate(tables)]
    return pa.concat_tables(
        [table.append_column("shard", column) for table, column in zip(tables, numbers, strict=True)]
    )


def ending_of(name: str) -> str:
    """The part of a member's name after its first dot, in lower case: `a/b.seg.png` -> `seg.png`."""
    return name.rpartition("/")[2].partition(".")[2].lower()


def _cached_table(shards: StorageFiles, number: int, texts: Sequence[str], cache: str | None) -> pa.Table:
    path, url = shards.paths[number], shards.urls[number]

    def ask(action: Callable[[], Any]) -> Any:
        try:
            return patiently(action, PAUSES_AT_FIRST if "://" in url else ())
        except DataError:
            raise
        except Exception as error:  # each storage raises its own
            raise DataError(f"{url}: cannot be read: {explained(error)}") from None

    if cache is None:
        return ask(lambda: _listed(shards, path, url, texts))
    info = ask(lambda: shards.storage.info(path))
    about = "\n".join([FORMAT, url, path, *texts, *marks_of(info)])
    key = hashlib.sha256(about.encode("utf-8", "surrogateescape")).hexdigest()
    file = Path(cache).expanduser() / "tar" / f"{key[:40]}.arrow"
    if (table := _read_cached(file)) is not None:
        return table
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # All processes of a machine start together: one lists a shard, the others wait for it.
        with FileLock(file.with_suffix(".lock")):
            if (table := _read_cached(file)) is not None:
                return table
            table = ask(lambda: _listed(shards, path, url, texts))
            with replacing(file) as part:
                feather.write_feather(table, part)
    except OSError as error:
        raise DataError(
            f"data.options.cache: {file}: cannot be written: {error.strerror or error}; give another folder, "
            "or null for none"
        ) from None
    return table


def _read_cached(file: Path) -> pa.Table | None:
    """A cached list; None if there is none, or it is damaged."""
    try:
        return feather.read_table(file)
    except (OSError, pa.ArrowInvalid):
        return None


def _listed(shards: StorageFiles, path: str, url: str, texts: Sequence[str]) -> pa.Table:
    names, starts, sizes, contents = [], [], [], []
    with shards.storage.open(path, "rb", block_size=BLOCK, cache_type="readahead") as stream:
        if stream.read(2) == GZIP:
            raise DataError(
                f"{url}: is compressed, so no picture in it can be read without all before it: unpack it "
                "(gunzip); pictures are compressed by themselves"
            )
        stream.seek(0)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for member in archive:
                    # Otherwise tarfile keeps all of them in memory.
                    archive.members = []  # type: ignore[attr-defined]  # typeshed lacks it
                    if not member.isreg():
                        continue
                    names.append(member.name)
                    starts.append(member.offset_data)
                    sizes.append(member.size)
                    content = None
                    if ending_of(member.name) in texts:
                        if member.size > SMALL:
                            raise DataError(f"{url}: {member.name}: {member.size:,} bytes are no label")
                        stream_of_member = archive.extractfile(member)
                        assert stream_of_member is not None  # it is a regular file
                        content = stream_of_member.read()
                    contents.append(content)
                following = archive.offset
        except tarfile.TarError as error:
            raise DataError(f"{url}: no tar file, or damaged: {error}") from None
        # tarfile treats a header that it cannot read as the end of the archive.
        stream.seek(following)
        if stream.read(BLOCK_OF_TAR) != bytes(BLOCK_OF_TAR):
            raise DataError(
                f"{url}: is cut off or damaged at byte {following:,}: no end of the archive there"
            )
    return pa.table(
        {
            "name": pa.array(names, pa.string()),
            "start": pa.array(starts, pa.int64()),
            "size": pa.array(sizes, pa.int64()),
            "text": pa.array(contents, pa.binary()),
        }
    )


class TarMembers(PlacedStore):
    """Pictures that are members of tar shards."""

    def __init__(
        self,
        shards: StorageFiles,
        names: pa.Array,
        places: np.ndarray,
        anonymous: bool = False,
        cache: DiskCache | None = None,
    ):
        """names: of n pictures. places: int64 [n, 3]: shard (-1: the picture is in no shard), start, size."""
        super().__init__(shards.root, anonymous, cache)
        self.paths, self.urls, self.names, self.places = shards.paths, shards.urls, names, places

    def name(self, index: int) -> str:
        shard = self.places[index, 0]
        return f"{self.urls[shard] if shard >= 0 else 'in no shard'}: {self.names[index].as_py()}"

    def place(self, index: int) -> Place:
        shard, start, size = self.places[index].tolist()
        if shard < 0:
            raise FileNotFoundError(self.names[index].as_py())
        return Place(self.paths[shard], start, start + size)


def places_of(table: pa.Table, rows: np.ndarray) -> np.ndarray:
    """The `places` of `TarMembers` for rows (int64 [n]) of `list_members`' table; row -1: in no shard."""
    columns = [table[name].combine_chunks().to_numpy() for name in ("shard", "start", "size")]
    places = np.stack([column.astype(np.int64) for column in columns], 1)
    if not len(places):
        return np.full((len(rows), 3), -1)
    return np.where(rows[:, None] >= 0, places[rows], -1)
