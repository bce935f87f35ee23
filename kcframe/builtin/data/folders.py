"""Lists the pictures below a folder, and reads classes off their paths."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from kcframe.errors import DataError, did_you_mean
from kcframe.taxonomy import Taxonomy


class Listing(NamedTuple):
    """files: paths below `folder`, in order. name: the folder as the user calls it. left_out: by ending."""

    filesystem: fsspec.AbstractFileSystem
    folder: str
    name: str
    files: list[str]
    left_out: Counter[str]


def list_pictures(root: str, split: str, extensions: Sequence[str]) -> Listing:
    """All pictures of a split, sorted, so that an image's index is the same on every machine.

    Raises DataError if the folder is missing, cannot be listed, or has no picture.
    """
    name = f"{root.rstrip('/')}/{split.strip('/')}"
    try:
        filesystem, path = fsspec.url_to_fs(root)
        folder = f"{path.rstrip('/')}/{split.strip('/')}"
        if not filesystem.isdir(folder):
            below = [each.rstrip("/").rpartition("/")[2] for each in filesystem.ls(path, detail=False)]
            raise DataError(f"{name}: no such folder; {did_you_mean(split, below)}")
        paths = [path[len(folder) + 1 :] for path in _files(filesystem, folder)]
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"data.options.root: no folder '{root}'") from None
    except Exception as error:  # each storage raises its own
        raise DataError(f"{name}: cannot be listed: {type(error).__name__}: {error}") from None
    files, left_out = [], Counter[str]()
    for file in sorted(paths, key=lambda path: path.split("/")):
        parts = file.split("/")
        if not parts[-1] or any(part.startswith(".") for part in parts):
            continue
        stem, _, ending = parts[-1].rpartition(".")
        if stem and ending.lower() in extensions:
            files.append(file)
        else:
            left_out[f".{ending}" if stem else "no ending"] += 1
    if not files:
        raise DataError(f"{name}: no picture in it that ends in {', '.join(extensions)}")
    return Listing(filesystem, folder, name, files, left_out)


def _files(filesystem: fsspec.AbstractFileSystem, folder: str) -> Iterator[str]:
    """All files below a folder; on this machine's disks also those behind links to folders."""
    if not isinstance(filesystem, LocalFileSystem):
        yield from filesystem.find(folder)
        return
    for place, folders, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(place) + os.sep
        folders[:] = [each for each in folders if not _leads_up(os.path.join(place, each), here)]
        yield from (f"{place}/{file}" for file in files)


def _leads_up(path: str, here: str) -> bool:
    """Whether a path is a link to `here` or a folder above it, which would be walked for ever."""
    return os.path.islink(path) and here.startswith(os.path.realpath(path) + os.sep)


def refuse_other_depths(*listings: Listing) -> None:
    """DataError for a picture that does not lie in <vertical>/<class>/."""
    for listing in listings:
        for file in listing.files:
            if file.count("/") != 2:
                raise DataError(
                    f"{listing.name}/{file}: not in <vertical>/<class>/; for other folders, give a taxonomy "
                    "file (data.options.taxonomy)"
                )


def taxonomy_of(train: Listing) -> Taxonomy:
    """From <vertical>/<class>/ folders."""
    verticals: dict[str, dict[str, None]] = {}
    for file in train.files:
        vertical, name, _ = file.split("/")
        verticals.setdefault(vertical, {})[name] = None
    return Taxonomy.build({vertical: list(names) for vertical, names in verticals.items()})


def refuse_new_classes(train: Listing, test: Listing) -> None:
    """DataError for a class folder of the test split that the train split lacks."""
    known = dict.fromkeys(file.rpartition("/")[0] for file in train.files)
    for file in test.files:
        folder = file.rpartition("/")[0]
        if folder not in known:
            raise DataError(
                f"{test.name}/{folder}: no such class in {train.name}; {did_you_mean(folder, known)}"
            )


def class_ids(listing: Listing, taxonomy: Taxonomy, source: str | None) -> list[int]:
    """One an entry of `listing.files`. source: the taxonomy's file, for the error."""
    ids = {name: class_id for class_id, name in enumerate(taxonomy.classes)}
    found = []
    for file in listing.files:
        name = f"/{file}".split("/")[-2]
        if name not in ids:
            if not name:
                raise DataError(f"{listing.name}/{file}: in no class folder")
            near = did_you_mean(name, taxonomy.classes)
            raise DataError(f"{listing.name}/{file}: {source} has no class '{name}'; {near}")
        found.append(ids[name])
    return found
