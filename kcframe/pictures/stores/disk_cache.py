"""A cache of files on this machine's disk, shared by all of its processes, with a limit in bytes.

Libraries lack one of the two: diskcache writes to a database on every read, fsspec's caches have no limit in
bytes. A file in the cache is always complete (except after a power cut: then delete the folder). Its
modification time is the time of its last use. One file holds the total size; a process adds to it before it
has written that much. The single files are only listed when the total exceeds the limit, or is old.

A cache deletes files, so its folder is its own: made by it, with a mark in it, writable for its user alone.
Only files with names of the cache's shape are ever deleted, and no link is followed.
"""

from __future__ import annotations

import os
import re
import stat
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock, Timeout

from kcframe.errors import DataError
from kcframe.storage.writing import replacing

Opened = TypeVar("Opened")

GIB = 2**30
PART = 64  # a process reserves 1 / PART of the limit at a time
KEPT = 0.75  # share of the limit that remains after files were deleted
MARK = "kcframe-cache"  # file that says whose folder this is
NOTE = "Pictures that kcframe keeps. It deletes the oldest of them.\n"
FOLDER = re.compile(r"[0-9a-f]{2}")
FILE = re.compile(r"[0-9a-f]{38}|\..+\.part")
LOCK = "lock"
COUNTED = "counted"  # file with the total in bytes, and the time in seconds at which all files were listed
TRUSTED = 24 * 3600.0  # seconds for which that total is trusted; then all files are listed again
FRESH = 3600.0  # seconds for which a .part file counts as being written
TRIES = 5


class DiskCache:
    """max_bytes: limit on the size of all files together."""

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int):
        self.folder, self.max_bytes = Path(folder).expanduser(), max_bytes
        self._unsaid = 0  # bytes added but not yet in COUNTED; negative: reserved bytes that are left
        self._process = os.getpid()
        self._claimed = False

    def claim(self) -> None:
        """Make the folder, or see that it is this user's cache. An earlier kcframe's is adopted.

        Raises DataError if it is anything else: what is in it could be deleted. OSError if it cannot be made.
        """
        if self._claimed:
            return
        try:
            status = os.lstat(self.folder)
        except FileNotFoundError:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = os.lstat(self.folder)
        if stat.S_ISLNK(status.st_mode):
            raise DataError(self._refused("is a link"))
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(f"{self.folder} is no folder")
        if status.st_uid != os.geteuid():
            raise DataError(self._refused("is another user's"))
        names = set(os.listdir(self.folder))
        if MARK not in names:
            strangers = sorted(name for name in names - {LOCK, COUNTED} if not FOLDER.fullmatch(name))
            if strangers:
                raise DataError(self._refused(f"holds '{strangers[0]}', which no cache of kcframe has made"))
            os.chmod(self.folder, 0o700)  # an earlier kcframe left that to the umask
            (self.folder / MARK).write_text(NOTE)
        elif status.st_mode & 0o022:
            raise DataError(self._refused("can be written by other users (chmod go-w makes it yours)"))
        self._claimed = True

    def _refused(self, why: str) -> str:
        return (
            f"data.options.cache: {self.folder}: {why}: a cache deletes files in its folder, so give it a "
            "folder of its own that does not exist yet"
        )

    def read(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The bytes stored under `key`. If there are none, calls `make` and tries to store its result."""
        path = self._path(key)
        try:
            self.claim()
            data = path.read_bytes()
        except OSError:
            data = make()
        else:
            _used(path)
            return data
        try:
            self.claim()
            _refuse_link(path.parent)
            with replacing(path) as part:
                part.write_bytes(data)
        except OSError:
            return data  # the disk is full, or the folder is read-only: the cache is not used
        self._grown(len(data))
        return data

    def opened(self, key: str, opening: Callable[[Path], Opened], make: Callable[[Path], None]) -> Opened:
        """The result of `opening` for the file stored under `key`.

        If there is no such file, `make` fills it, in one process at a time. `opening` must raise
        FileNotFoundError if its file is missing. Raises OSError if the file cannot be stored.
        """
        path = self._path(key)
        self.claim()
        for _ in range(TRIES):
            # Open first, do not check: another run with a smaller limit may delete the file at any time.
            with suppress(FileNotFoundError):
                content = opening(path)
                _used(path)
                return content
            path.parent.mkdir(parents=True, exist_ok=True)
            _refuse_link(path.parent)
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
        """Mark the file stored under `key` as just used."""
        _used(self._path(key))

    def _grown(self, by: int) -> None:
        if self._process != os.getpid():  # bytes reserved before a fork belong to the other process
            self._unsaid, self._process = 0, os.getpid()
        self._unsaid += by
        if self._unsaid <= 0:
            return
        try:
            with FileLock(self.folder / LOCK, blocking=False):
                self._unsaid -= self._say(self._unsaid)
        except (Timeout, OSError):
            return  # another process holds the lock, or the folder is being deleted: count again next time

    def _say(self, added: int) -> int:
        """Adds `added` bytes, and a reserve for later ones, to the total. Returns the sum of the two."""
        (total, looked), reserved = self._counted(), self.max_bytes // PART
        total += added + reserved
        if total > self.max_bytes or not 0 <= time.time() - looked < TRUSTED:
            total, looked = self._shrink() + reserved, time.time()
        with replacing(
            self.folder / COUNTED
        ) as part:  # a link that somebody planted is replaced, not followed
            part.write_text(f"{total} {looked}")
        return added + reserved

    def _counted(self) -> tuple[int, float]:
        """(total bytes, time at which all files were listed), from the file COUNTED."""
        try:
            total, looked = (self.folder / COUNTED).read_text().split()
            return int(total), float(looked)
        except (OSError, ValueError):
            return 0, 0.0

    def _shrink(self) -> int:
        """Deletes the files that were unused longest, until KEPT of the limit is left. Returns the total."""
        # There may be millions of files: keep numbers only, and list the names a second time.
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
                with suppress(OSError):  # if one file cannot be deleted, the others still are
                    os.unlink(path)
                    total -= size
        return total

    def _files(self) -> Iterator[tuple[str, float, int]]:
        """(path, time of last use, bytes) of each file in the cache."""
        now = time.time()
        for folder in os.scandir(self.folder):
            if not FOLDER.fullmatch(folder.name) or not folder.is_dir(follow_symlinks=False):
                continue
            for entry in os.scandir(folder):
                if not FILE.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                    continue
                with suppress(OSError):  # deleted in the meantime
                    status = entry.stat(follow_symlinks=False)
                    in_making = entry.name.endswith(".part") and now - status.st_mtime < FRESH
                    if not in_making:
                        yield entry.path, status.st_mtime, status.st_size


def _refuse_link(folder: Path) -> None:
    """OSError for a folder of the cache that is a link to another."""
    if folder.is_symlink():
        raise OSError(f"{folder} is a link")


def _used(path: Path) -> None:
    with suppress(OSError):  # a read-only folder: the file counts as unused for long
        os.utime(path)
