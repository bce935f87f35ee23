"""Where the bytes of pictures are stored, and how they are read: with retries, by many threads at once."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import NamedTuple

import fsspec

from kcframe.pictures.stores.disk_cache import KEPT, DiskCache
from kcframe.storage.remote import PAUSES, patiently, storage_options


class Place(NamedTuple):
    """A file's path in its storage, and the range [start, end) of its bytes; None: all of them."""

    path: str
    start: int | None = None
    end: int | None = None


class Store(ABC):
    """The bytes of n pictures, by index. Can be pickled; each process opens its own connections."""

    def __init__(self, root: str, anonymous: bool = False):
        """root: a URL of the storage that has the files."""
        self.root, self.anonymous = root, anonymous
        self.remote = "://" in root and not root.startswith("file://")
        self._opened: tuple[int, fsspec.AbstractFileSystem] | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_opened": None}

    @property
    def storage(self) -> fsspec.AbstractFileSystem:
        """The filesystem of this process: connections do not survive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            storage, _ = fsspec.url_to_fs(self.root, **storage_options(self.root, self.anonymous))
            self._opened = (os.getpid(), storage)
        return self._opened[1]

    @abstractmethod
    def name(self, index: int) -> str:
        """A picture's name for people."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """A picture's bytes. Raises FileNotFoundError if the file is missing, or the storage's error."""

    @abstractmethod
    def size(self, index: int) -> int:
        """Bytes that the storage sends for a picture; may ask the storage. Raises the errors of `read`."""

    requests: float = 1.0
    """Mean number of requests to the storage per picture."""

    @property
    @abstractmethod
    def room(self) -> float:
        """Bytes of pictures, over all splits, that this machine keeps after it has read them once."""


class PlacedStore(Store):
    """A store in which each picture is a file, or a range of bytes of one."""

    def __init__(self, root: str, anonymous: bool = False, cache: DiskCache | None = None):
        super().__init__(root, anonymous)
        self.cache = cache

    @abstractmethod
    def place(self, index: int) -> Place:
        """Where a picture is. Raises FileNotFoundError if it is already clear that there is none."""

    def read(self, index: int) -> bytes:
        place = self.place(index)
        if self.cache is None:
            return self._fetch(place)
        where = f"{self.root}\n{place.path}\n{place.start}\n{place.end}"
        return self.cache.read(where, lambda: self._fetch(place))

    def _fetch(self, place: Place) -> bytes:
        path, start, end = place
        if start is not None and start == end:
            return b""  # S3 sends the whole file for an empty range
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
