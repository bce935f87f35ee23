"""Lists the pictures below a folder, on this machine or on any storage that fsspec knows."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from kcframe.errors import DataError, did_you_mean
from kcframe.storage.remote import explained, storage_options, without_secrets


class Listing(NamedTuple):
    """The picture files below one folder.

    root: a URL of the storage that has the folder. folder: the folder's path in that storage. name: the
    folder as the user wrote it. files: paths below the folder, sorted. left_out: number of other files, by
    ending.
    """

    root: str
    folder: str
    name: str
    files: list[str]
    left_out: Counter[str]


def list_pictures(root: str, split: str, extensions: Sequence[str], anonymous: bool = False) -> Listing:
    """All pictures of a split, sorted, so that an image's index is the same on every machine.

    Skips names that begin with a dot. Raises DataError if the folder is missing, cannot be listed or has no
    picture, and for a picture whose name is not UTF-8.
    """
    shown = without_secrets(root)
    name = f"{shown.rstrip('/')}/{split.strip('/')}"
    with _named(name, f"data.options.root: no folder '{shown}'"):
        filesystem, path = fsspec.url_to_fs(root, **storage_options(root, anonymous))
        folder = posixpath.join(path, posixpath.normpath(split.strip("/")))
        if filesystem.isfile(path):
            raise DataError(f"data.options.root: '{shown}' is a file, not a folder")
        if not filesystem.isdir(folder):
            below = [entry.rstrip("/").rpartition("/")[2] for entry in filesystem.ls(path, detail=False)]
            raise DataError(f"{name}: no such folder; {did_you_mean(split, below)}")
        return _listing(filesystem, folder, root, name, extensions)


def list_folder(url: str, extensions: Sequence[str]) -> Listing:
    """Like `list_pictures`, for a folder that is not a split: any URL, also the root of a bucket or '.'."""
    name = without_secrets(url)
    with _named(name, f"no folder '{name}'"):
        filesystem, folder = fsspec.url_to_fs(url, **storage_options(url, False))
        if not filesystem.isdir(folder):
            what = "is a file, not a folder" if filesystem.exists(folder) else "no such folder"
            raise DataError(f"{name}: {what}")
        return _listing(filesystem, folder.rstrip("/"), url, name, extensions)


@contextmanager
def _named(name: str, missing: str) -> Iterator[None]:
    """Turns an error of the storage into a DataError that names the folder."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(missing) from None
    except Exception as error:  # each storage raises its own
        raise DataError(f"{name}: cannot be listed: {explained(error)}") from None


def _listing(
    filesystem: fsspec.AbstractFileSystem, folder: str, root: str, name: str, extensions: Sequence[str]
) -> Listing:
    full_paths = walk(folder) if isinstance(filesystem, LocalFileSystem) else filesystem.find(folder)
    start = len(folder) + 1 if folder else 0
    paths = [path[start:] for path in full_paths]
    files, left_out = [], Counter[str]()
    for file in sorted(paths, key=lambda path: path.split("/")):
        shown = file.encode("utf-8", "backslashreplace").decode()
        parts = shown.split("/")
        if not parts[-1] or any(part.startswith(".") for part in parts):
            continue
        stem, _, ending = parts[-1].rpartition(".")
        if not stem or ending.lower() not in extensions:
            left_out[f".{ending}" if stem else "no ending"] += 1
            continue
        if shown != file:  # the taxonomy and the report are UTF-8 files
            raise DataError(f"{name}/{shown}: the name is not UTF-8; rename it (convmv renames many at once)")
        files.append(file)
    if not files:
        raise DataError(f"{name}: no picture in it that ends in {', '.join(extensions)}")
    return Listing(root, folder, name, files, left_out)


def walk(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """All files below a folder of this machine. Follows links, but not into a folder that it is already in.

    fsspec's `find` does not follow links to folders, and os.walk follows circular links without end.
    """
    here = os.path.realpath(folder)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from walk(entry.path, (*above, here))
            else:
                yield entry.path
