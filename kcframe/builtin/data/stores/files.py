"""Which files an address with patterns means: `train-{000..146}.tar`, `s3://bucket/train-*.tar`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import fsspec

from kcframe.builtin.data.stores.store import storage_options
from kcframe.errors import DataError
from kcframe.storage import PAUSES_AT_FIRST, patiently

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


class Found:
    """root: a URL of the storage. paths: in it, as listed. urls: of the same files, for people."""

    def __init__(self, root: str, storage: fsspec.AbstractFileSystem, paths: list[str]):
        self.root, self.paths, self.storage = root, paths, storage
        protocol = root.partition("://")[0] if "://" in root else ""
        self.urls = [f"{protocol}://{path}" if protocol and "://" not in path else path for path in paths]


def find_files(patterns: Sequence[str], option: str, anonymous: bool) -> Found:
    """All files that the patterns mean, each once, in the order of the patterns and then of names.

    option: that names them, for errors. DataError if a pattern means none, or the storage cannot be asked.
    """
    paths: dict[str, None] = {}
    for pattern in patterns:
        for url in _without_braces(pattern):
            try:
                storage, path = fsspec.url_to_fs(url, **storage_options(url, anonymous))
                found = patiently(
                    lambda storage=storage, path=path: (
                        sorted(storage.glob(path)) if _has_stars(path) else [path] * storage.exists(path)
                    ),
                    PAUSES_AT_FIRST if "://" in url else (),
                )
            except Exception as error:  # each storage raises its own
                reason = f"{type(error).__name__}: {error}"
                raise DataError(f"{option}: {url}: cannot be listed: {reason}") from None
            if not found:
                raise DataError(f"{option}: no file '{url}'")
            paths |= dict.fromkeys(found)
    return Found(patterns[0], storage, list(paths))


def _has_stars(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def _without_braces(pattern: str) -> list[str]:
    """`a{1,2}` -> a1, a2; `{08..11}` -> 08, 09, 10, 11."""
    parts: list[list[str]] = []
    end = 0
    for match in BRACES.finditer(pattern):
        parts.append([pattern[end : match.start()]])
        first, last, names = match.groups()
        if names is not None:
            parts.append(names.split(","))
        else:
            width = len(first) if first.startswith("0") or len(first) == len(last) else 0
            parts.append([f"{number:0{width}d}" for number in range(int(first), int(last) + 1)])
        end = match.end()
    parts.append([pattern[end:]])
    return ["".join(each) for each in itertools.product(*parts)]
