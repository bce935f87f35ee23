"""Files kept on this machine's disk, up to a size, for all processes of it.

No library does this without a database that every read would write to (diskcache) or without a limit in bytes
(fsspec's own caches). A file that is there is whole (but for a power cut: then delete the folder), and the
time it was last used is the file's own. How much there is stands in a file, to which a process adds before it
has written as much; only where that is too much is every file looked at.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock, Timeout

from kcframe.storage.writing import replacing

Opened = TypeVar("Opened")

GIB = 2**30
PART = 64  # the share of the limit, 1 / PART, that a process reserves at a time
KEPT = 0.75  # of the limit, that is left when something had to go
COUNTED = "counted"  # the file that says how much there is: bytes, and when (in seconds) all were looked at
TRUSTED = 24 * 3600.0  # seconds after which all are looked at again
FRESH = 3600.0  # seconds that a file may be in the making
TRIES = 5


class DiskCache:
    """max_bytes: of all files together."""

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int):
        self.folder, self.max_bytes = Path(folder).expanduser(), max_bytes
        self._unsaid = 0  # bytes added since the last time; negative: what is left of those reserved
        self._process = os.getpid()

    def read(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The bytes kept under `key`, or else what `make` gives, which is then kept if the disk has room."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            data = make()
        else:
            _used(path)
            return data
        try:
            with replacing(path) as part:
                part.write_bytes(data)
        except OSError:
            return data  # full, or not ours to write: then without
        self._grown(len(data))
        return data

    def opened(self, key: str, opening: Callable[[Path], Opened], make: Callable[[Path], None]) -> Opened:
        """What `opening` gives for the file kept under `key`; `make` fills it if it is not there, in one
        process at a time. `opening` raises FileNotFoundError if it is not there. Raises OSError if it cannot
        be kept."""
        path = self._path(key)
        for _ in range(TRIES):
            # Whether it is there shows when it is opened: another run's limit may delete it any time before.
            with suppress(FileNotFoundError):
                found = opening(path)
                _used(path)
                return found
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if path.exists():
                    continue
                with replacing(path) as part:
                    make(part)
                    size = part.stat().st_size
            self._grown(size)
        raise OSError(
            f"{path} was deleted {TRIES} times before it was opened; other runs need another folder"
        )

    def _path(self, key: str) -> Path:
        name = sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:40]
        return self.folder / name[:2] / name[2:]

    def used(self, key: str) -> None:
        """Say that the file kept under `key` is in use."""
        _used(self._path(key))

    def _grown(self, by: int) -> None:
        if self._process != os.getpid():  # what was reserved before a fork is the other's
            self._unsaid, self._process = 0, os.getpid()
        self._unsaid += by
        if self._unsaid <= 0:
            return
        try:
            with FileLock(self.folder / "lock", blocking=False):
                self._unsaid -= self._say(self._unsaid)
        except (Timeout, OSError):
            return  # another process is at it, or somebody deletes the folder: what was read is read

    def _say(self, added: int) -> int:
        """Say what was added, and reserve some more. Returns the bytes that are said."""
        (total, looked), reserved = self._counted(), self.max_bytes // PART
        total += added + reserved
        if total > self.max_bytes or not 0 <= time.time() - looked < TRUSTED:
            total, looked = self._shrink() + reserved, time.time()
        (self.folder / COUNTED).write_text(f"{total} {looked}")
        return added + reserved

    def _counted(self) -> tuple[int, float]:
        """(bytes, when all files were looked at), as the last process said."""
        try:
            total, looked = (self.folder / COUNTED).read_text().split()
            return int(total), float(looked)
        except (OSError, ValueError):
            return 0, 0.0

    def _shrink(self) -> int:
        """Delete what was unused longest until there is room again. Returns the bytes that are left."""
        # Millions of files may be there: their names are not kept, but looked up again.
        times, sizes = array("d"), array("q")
        for _, when, size in self._files():
            times.append(when)
            sizes.append(size)
        used, bytes_ = np.array(times), np.array(sizes)
        total = int(bytes_.sum())
        if total <= self.max_bytes:
            return total
        order = used.argsort(kind="stable")
        enough = np.searchsorted(bytes_[order].cumsum(), total - KEPT * self.max_bytes)
        last = used[order[enough]]
        for path, when, size in self._files():
            if when <= last and total > KEPT * self.max_bytes:
                with suppress(OSError):  # one that cannot be deleted keeps no other from it
                    os.unlink(path)
                    total -= size
        return total

    def _files(self) -> Iterator[tuple[str, float, int]]:
        """Path, when it was last used, and bytes of each kept file."""
        now = time.time()
        for folder in self.folder.iterdir():
            if not folder.is_dir():
                continue
            for entry in os.scandir(folder):
                with suppress(OSError):  # gone meanwhile
                    found = entry.stat()
                    in_making = entry.name.endswith(".part") and now - found.st_mtime < FRESH
                    if not in_making and not entry.name.endswith(".lock"):
                        yield entry.path, found.st_mtime, found.st_size


def _used(path: Path) -> None:
    with suppress(OSError):  # not ours to say: then it counts as long unused
        os.utime(path)
