"""Files kept on this machine's disk, up to a size, for all processes of it.

No library does this without a database that every read would write to (diskcache) or without a limit in bytes
(fsspec's own caches). A file that is there is whole, the time it was last used is the file's own, and
whoever has added enough looks whether something must go.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from kcframe.storage import replacing

GIB = 2**30
PART = 64  # the share of the limit, 1 / PART, that a process adds before it looks how much there is
KEPT = 0.75  # of the limit, that is left when something had to go


class DiskCache:
    """max_bytes: of all files together. Each process that writes may be ahead of it by a 64th."""

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int):
        self.folder, self.max_bytes = Path(folder).expanduser(), max_bytes
        self._added: float = max_bytes  # so that the first one looks at once

    def read(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The bytes kept under `key`, or else what `make` gives, which is then kept if the disk has room."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)
            return data
        except OSError:
            data = make()
        try:
            with replacing(path) as part:
                part.write_bytes(data)
        except OSError:
            return data  # full, or not ours to write: then without
        self._grown(len(data))
        return data

    def file(self, key: str, make: Callable[[Path], None]) -> Path:
        """The file kept under `key`; `make` fills it if it is not there, in one process at a time.

        It may be deleted any time later: open it at once. OSError if it cannot be written.
        """
        path = self._path(key)
        if not _used(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not _used(path):
                    with replacing(path) as part:
                        make(part)
                        size = part.stat().st_size
                    self._grown(size)
        return path

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:40]
        return self.folder / name[:2] / name[2:]

    def _grown(self, by: int) -> None:
        self._added += by
        if self._added < self.max_bytes / PART:
            return
        try:
            with FileLock(self.folder / "lock", blocking=False):
                self._shrink()
        except (Timeout, OSError):
            return  # another process is at it, or somebody deletes the folder: what was read is read
        self._added = 0

    def _shrink(self) -> None:
        found = []
        for folder in os.scandir(self.folder):
            if folder.is_dir():
                found += [_about(entry) for entry in os.scandir(folder.path)]
        files = sorted(each for each in found if each is not None)
        total = sum(size for _, size, _ in files)
        if total <= self.max_bytes:
            return
        for _, size, path in files:
            if total <= KEPT * self.max_bytes:
                break
            Path(path).unlink(missing_ok=True)
            total -= size


def _used(path: Path) -> bool:
    """Whether it is there; it was used just now."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True


def _about(entry: os.DirEntry) -> tuple[float, int, str] | None:
    """(when last used, size, path); None if it is gone, or is no kept file."""
    if entry.name.endswith(".lock"):
        return None
    try:
        found = entry.stat()
    except OSError:
        return None
    return found.st_mtime, found.st_size, entry.path
