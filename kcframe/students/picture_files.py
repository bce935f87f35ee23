"""Reads pictures from files, folders and URLs in the background, and prepares them for a student."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from kcframe.errors import DataError
from kcframe.interfaces.toolkit.pictures import ENDINGS, EVERY_FORMAT, decode
from kcframe.interfaces.toolkit.transform import Transform
from kcframe.pictures.folders import walk
from kcframe.report.page import thumbnail
from kcframe.storage.remote import HOPELESS, PAUSES_AT_FIRST, explained, patiently

THREADS = 4


class Place(NamedTuple):
    """A picture's storage and path. name: for people; always valid Unicode."""

    storage: fsspec.AbstractFileSystem
    path: str
    name: str


@dataclass
class PictureFile:
    """A picture that was read, or the error.

    pixels: uint8 [S, S, C], the input of the student, or None. thumbnail: a PNG file in base64, or ''. error:
    why the picture cannot be used, or ''.
    """

    name: str
    pixels: np.ndarray | None = None
    thumbnail: str = ""
    error: str = ""


def list_files(names: Sequence[str]) -> tuple[list[Place], Counter[str]]:
    """(places of all pictures, number of other files by ending).

    names: files, folders and patterns; of folders and patterns, files with the ending of a picture are taken.
    Raises DataError for a folder or pattern without pictures, and for a storage that cannot be listed.
    """
    places: list[Place] = []
    left_out: Counter[str] = Counter()
    for name in names:
        try:
            places += _listed(name, left_out)
        except DataError:
            raise
        except Exception as error:  # each storage raises its own
            raise DataError(f"{_shown(name)}: cannot be listed: {explained(error)}") from None
    return places, left_out


def _listed(name: str, left_out: Counter[str]) -> list[Place]:
    storage, path = fsspec.url_to_fs(name)
    local = isinstance(storage, LocalFileSystem)
    if name.startswith(("http://", "https://", "data:")):
        return [Place(storage, path, name)]  # the web has no folders
    if any(mark in path for mark in "*?[") and not storage.exists(path):
        files, names = storage.glob(path), None
    elif storage.isdir(path):
        files = walk(path) if local else storage.find(path)
        names = name if name.endswith("://") else f"{name.rstrip('/')}/"
    else:
        return [Place(storage, path, _shown(name))]
    places = []
    for file in sorted(files):
        last = file.rpartition("/")[2]
        ending = last.rpartition(".")[2].lower() if "." in last else ""
        if last.startswith("."):
            continue
        if ending not in ENDINGS:
            left_out[f".{ending}" if ending else "no ending"] += 1
            continue
        inside = file.removeprefix(path.rstrip("/")).lstrip("/")
        shown = file if names is None and local else storage.unstrip_protocol(file)
        places.append(Place(storage, file, _shown(shown if names is None else f"{names}{inside}")))
    if not places:
        raise DataError(f"{_shown(name)}: no picture in it that ends in {', '.join(ENDINGS)}")
    return places


def _shown(name: str) -> str:
    """The name as valid Unicode: a file's name may be bytes that are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def read_pictures(
    places: Iterable[Place], transform: Transform, batch_size: int, thumbnails: bool = False
) -> Iterator[list[PictureFile]]:
    """Yields batches of pictures, in order. The next batch is read while the caller uses the current one.

    A picture that cannot be read has an error instead of pixels.
    """

    def read(place: Place) -> PictureFile:
        storage, path, name = place
        try:
            pauses = () if isinstance(storage, LocalFileSystem) else PAUSES_AT_FIRST
            data = patiently(lambda: storage.cat_file(path), pauses)
        except FileNotFoundError:
            return PictureFile(name, error="no such file")
        except HOPELESS as error:
            return PictureFile(name, error=error.strerror or type(error).__name__)
        except Exception as error:  # each storage raises its own
            return PictureFile(name, error=f"cannot be read: {explained(error)}")
        try:
            picture = decode(data, EVERY_FORMAT, transform.mode, 2 * transform.image_size)
            return PictureFile(name, transform.pixels(picture), thumbnail(picture) if thumbnails else "")
        except Exception as error:  # damaged pictures fail in many ways
            return PictureFile(name, error=f"cannot be decoded: {str(error) or type(error).__name__}")

    rest = iter(places)
    pool = ThreadPoolExecutor(THREADS, "pictures")

    def submit() -> list[Future[PictureFile]]:
        return [pool.submit(read, place) for place in islice(rest, batch_size)]

    try:
        ahead = submit()
        while ahead:
            now, ahead = ahead, submit()
            yield [future.result() for future in now]
    finally:
        pool.shutdown(cancel_futures=True)
