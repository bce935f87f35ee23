"""Pictures from files, folders and URLs, read and made small ahead of whoever wants them."""

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
    """Where a picture lies. name: for people, always text that can be written."""

    storage: fsspec.AbstractFileSystem
    path: str
    name: str


@dataclass
class Found:
    """A picture that was named or lies in a folder. pixels: uint8 [S, S, C], as the student takes it, or
    None. thumbnail: a PNG file in base64, where it was asked for. error: why it cannot be used, else ''."""

    name: str
    pixels: np.ndarray | None = None
    thumbnail: str = ""
    error: str = ""


def list_files(names: Sequence[str]) -> tuple[list[Place], Counter[str]]:
    """Where pictures lie: files as they are named, folders and patterns with all that is in them; and how
    many other files those have, by ending.

    Raises DataError for a folder or pattern without pictures, and for a storage that cannot be listed.
    """
    found: list[Place] = []
    left_out: Counter[str] = Counter()
    for name in names:
        try:
            found += _listed(name, left_out)
        except DataError:
            raise
        except Exception as error:  # each storage raises its own
            raise DataError(f"{_shown(name)}: cannot be listed: {explained(error)}") from None
    return found, left_out


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
    found = []
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
        found.append(Place(storage, file, _shown(shown if names is None else f"{names}{inside}")))
    if not found:
        raise DataError(f"{_shown(name)}: no picture in it that ends in {', '.join(ENDINGS)}")
    return found


def _shown(name: str) -> str:
    """A file's name may be bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode()


def read_pictures(
    places: Iterable[Place], transform: Transform, batch_size: int, thumbnails: bool = False
) -> Iterator[list[Found]]:
    """Batches of pictures, in order, the next one read while this one is used. What cannot be read has an
    error instead."""

    def read(place: Place) -> Found:
        storage, path, name = place
        try:
            pauses = () if isinstance(storage, LocalFileSystem) else PAUSES_AT_FIRST
            data = patiently(lambda: storage.cat_file(path), pauses)
        except FileNotFoundError:
            return Found(name, error="no such file")
        except HOPELESS as error:
            return Found(name, error=error.strerror or type(error).__name__)
        except Exception as error:  # each storage raises its own
            return Found(name, error=f"cannot be read: {explained(error)}")
        try:
            picture = decode(data, EVERY_FORMAT, transform.mode, 2 * transform.image_size)
            return Found(name, transform.pixels(picture), thumbnail(picture) if thumbnails else "")
        except Exception as error:  # damaged pictures fail in many ways
            return Found(name, error=f"cannot be decoded: {str(error) or type(error).__name__}")

    rest = iter(places)
    pool = ThreadPoolExecutor(THREADS, "pictures")

    def submit() -> list[Future[Found]]:
        return [pool.submit(read, place) for place in islice(rest, batch_size)]

    try:
        ahead = submit()
        while ahead:
            now, ahead = ahead, submit()
            yield [future.result() for future in now]
    finally:
        pool.shutdown(cancel_futures=True)
