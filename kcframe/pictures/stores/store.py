"""Where the bytes of a set's pictures are, and how they are fetched: patiently, by many threads."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import NamedTuple

import fsspec

from kcframe.pictures.stores.disk_cache import KEPT, DiskCache
from kcframe.storage.remote import PAUSES, patiently, storage_options


class Place(NamedTuple):
    """A file's path in its storage, and which of its bytes: [start, end), or all of them."""

    path: str
    start: int | None = None
    end: int | None = None


class Store(ABC):
    """The bytes of n pictures, by number. It travels to other processes, which open their own connections."""

    def __init__(self, root: str, anonymous: bool = False):
        """root: a URL whose storage has the files."""
        self.root, self.anonymous = root, anonymous
        self.remote = "://" in root and not root.startswith("file://")
        self._opened: tuple[int, fsspec.AbstractFileSystem] | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_opened": None}

    @property
    def storage(self) -> fsspec.AbstractFileSystem:
        """This process's: connections do not survive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            found, _ = fsspec.url_to_fs(self.root, **storage_options(self.root, self.anonymous))
            self._opened = (os.getpid(), found)
        return self._opened[1]

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call a picture."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """A picture's file. FileNotFoundError if there is none; else what the storage raises."""

    @abstractmethod
    def size(self, index: int) -> int:
        """How many bytes it has where it lies, asking the storage if need be. Raises as `read`."""

    requests: float = 1.0
    """To the storage, for a picture."""

    @property
    @abstractmethod
    def room(self) -> float:
        """Bytes of pictures that stay on this machine once they have been read, of all splits together."""


class PlacedStore(Store):
    """Each picture is a file, or some consecutive bytes of one."""

    def __init__(self, root: str, anonymous: bool = False, cache: DiskCache | None = None):
        super().__init__(root, anonymous)
        self.cache = cache

    @abstractmethod
    def place(self, index: int) -> Place:
        """Where a picture is. FileNotFoundError if that is known to be nowhere."""

    def read(self, index: int) -> bytes:
        place = self.place(index)
        if self.cache is None:
            return self._fetch(place)
        where = f"{self.root}\n{place.path}\n{place.start}\n{place.end}"
        return self.cache.read(where, lambda: self._fetch(place))

    def _fetch(self, place: Place) -> bytes:
        path, start, end = place
        if start is not None and start == end:
            return b""  # a range of no bytes is no range: S3 would send the whole file
        pauses = PAUSES if self.remote else ()
        return patiently(lambda: self.storage.cat_file(path, start=start, end=end), pauses)

    def size(self, index: int) -> int:
        path, start, end = self.place(index)
        if start is not None and end is not None:
            return end - start
        return int(patiently(lambda: self.storage.info(path), PAUSES if self.remote else ())["size"])

    @property
    def room(self) -> float:
        return 0.0 if self.cache is None else KEPT * self.cache.max_bytes
