"""Pictures from files, folders and URLs, decoded ahead of whoever wants them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import fsspec
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from kcframe.builtin.data.folders import walk
from kcframe.errors import DataError
from kcframe.interfaces.pictures import ENDINGS, EVERY_FORMAT, decode
from kcframe.interfaces.transform import Transform
from kcframe.storage import HOPELESS, PAUSES, patiently

THREADS = 4


@dataclass
class Found:
    """A picture that was named or lies in a folder. error: why it cannot be used, else ''."""

    name: str
    picture: Image.Image | None = None
    error: str = ""


def list_files(places: Sequence[str]) -> list[str]:
    """Paths and URLs of pictures: files as they are named, folders and patterns with all that is in them.

    Raises DataError for a folder or pattern without pictures, and for a storage that cannot be listed.
    """
    found: list[str] = []
    for place in places:
        try:
            found += _listed(place)
        except DataError:
            raise
        except Exception as error:  # each storage raises its own
            raise DataError(f"{place}: cannot be listed: {type(error).__name__}: {error}") from None
    return found


def _listed(place: str) -> list[str]:
    if place.startswith(("http://", "https://", "data:")):
        return [place]
    storage, path = fsspec.url_to_fs(place)
    if isinstance(storage, LocalFileSystem):
        path = place.removeprefix("file://")
    if any(mark in place for mark in "*?[") and not storage.exists(path):
        files = storage.glob(path)
    elif storage.isdir(path):
        files = walk(path) if isinstance(storage, LocalFileSystem) else storage.find(path)
    else:
        return [place]
    protocol = "" if "://" not in place else place.partition("://")[0] + "://"
    pictures = [
        f"{protocol}{file.removeprefix(protocol)}"
        for file in sorted(files)
        if file.rpartition(".")[2].lower() in ENDINGS and not file.rpartition("/")[2].startswith(".")
    ]
    if not pictures:
        raise DataError(f"{place}: no picture in it that ends in {', '.join(ENDINGS)}")
    return pictures


def read_pictures(names: Iterable[str], transform: Transform, batch_size: int) -> Iterator[list[Found]]:
    """Batches of pictures, in order, the next one read while this one is used. What cannot be read has an
    error instead."""

    def open_one(name: str) -> Found:
        try:
            storage, path = fsspec.url_to_fs(name)
            data = patiently(lambda: storage.cat_file(path), PAUSES[:3] if "://" in name else ())
        except FileNotFoundError:
            return Found(name, error="no such file")
        except HOPELESS as error:
            return Found(name, error=error.strerror or type(error).__name__)
        except Exception as error:  # each storage raises its own
            return Found(name, error=f"cannot be read: {type(error).__name__}: {error}")
        try:
            return Found(name, decode(data, EVERY_FORMAT, transform.mode, 2 * transform.image_size))
        except Exception as error:  # damaged pictures fail in many ways
            return Found(name, error=f"cannot be decoded: {str(error) or type(error).__name__}")

    rest = iter(names)
    with ThreadPoolExecutor(THREADS, "pictures") as pool:
        ahead = [pool.submit(open_one, name) for name in islice(rest, batch_size)]
        while ahead:
            now, ahead = ahead, [pool.submit(open_one, name) for name in islice(rest, batch_size)]
            yield [future.result() for future in now]
