"""Finds the files that a pattern names: `train-{000..146}.tar`, `s3://bucket/train-*.tar`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import partial

import fsspec

from kcframe.errors import DataError
from kcframe.storage.remote import (
    PAUSES_AT_FIRST,
    explained,
    is_there,
    patiently,
    storage_options,
    without_secrets,
)

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


class StorageFiles:
    """Files of one storage.

    root: a URL of the storage. paths: the files' paths in it. urls: of the same files, for people.
    """

    def __init__(self, root: str, storage: fsspec.AbstractFileSystem, paths: list[str]):
        self.root, self.paths, self.storage = root, paths, storage
        protocol = root.partition("://")[0] if "://" in root else ""
        self.urls = [
            without_secrets(f"{protocol}://{path}" if protocol and "://" not in path else path)
            for path in paths
        ]

    @property
    def shown(self) -> dict[str, str]:
        """Path -> URL for people. Two paths may have the same URL there."""
        return dict(zip(self.paths, self.urls, strict=True))


def find_files(patterns: Sequence[str], option: str, anonymous: bool) -> StorageFiles:
    """All files that match the patterns, without duplicates, in the order of the patterns and then of names.

    option: the option with the patterns, for errors. Raises DataError if a pattern matches no file, if the
    storage cannot be listed, or if the patterns are in different storages.
    """
    paths: dict[str, None] = {}
    storages = []
    for url in (url for pattern in patterns for url in _without_braces(pattern, option)):
        shown = without_secrets(url)
        try:
            storage, path = fsspec.url_to_fs(url, **storage_options(url, anonymous))
            ask = partial(_listed, storage, path)
            listed = patiently(ask, PAUSES_AT_FIRST if "://" in url else ())
        except Exception as error:  # each storage raises its own
            raise DataError(f"{option}: {shown}: cannot be listed: {explained(error)}") from None
        storages.append(storage)
        if storage != storages[0]:
            first = without_secrets(patterns[0])
            raise DataError(f"{option}: {first} and {shown} lie in different storages")
        if not listed:
            raise DataError(f"{option}: no file '{shown}'")
        paths |= dict.fromkeys(listed)
    return StorageFiles(patterns[0], storages[0], list(paths))


def _listed(storage: fsspec.AbstractFileSystem, path: str) -> list[str]:
    if _has_stars(path):
        return sorted(storage.glob(path))
    return [path] if is_there(storage, path) else []


def _has_stars(path: str) -> bool:
    # On the web a question mark begins a query, for example a signature.
    return any(sign in path for sign in ("*" if "://" in path else "*?["))


def _without_braces(pattern: str, option: str) -> list[str]:
    """`a{1,2}` -> a1, a2; `{08..11}` -> 08, 09, 10, 11."""
    parts: list[list[str]] = []
    end = 0
    for match in BRACES.finditer(pattern):
        parts.append([pattern[end : match.start()]])
        first, last, names = match.groups()
        if names is not None:
            parts.append(names.split(","))
        elif int(first) > int(last):
            raise DataError(
                f"{option}: {without_secrets(pattern)}: {match.group()} counts down: turn it round"
            )
        else:
            width = len(first) if first.startswith("0") or len(first) == len(last) else 0
            parts.append([f"{number:0{width}d}" for number in range(int(first), int(last) + 1)])
        end = match.end()
    parts.append([pattern[end:]])
    return ["".join(pieces) for pieces in itertools.product(*parts)]
