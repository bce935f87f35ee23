"""Files that a command is asked to write: anywhere fsspec can write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import fsspec

from kcframe.errors import KcframeError, RunDirError


@contextmanager
def writing(url: str) -> Iterator[IO[bytes]]:
    """A file opened for bytes. RunDirError, naming it, if it cannot be opened or finished."""
    try:
        with fsspec.open(url, "wb") as file:
            yield file
    except (KcframeError, KeyboardInterrupt):
        raise
    except Exception as error:  # each storage raises its own
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise RunDirError(f"{url}: cannot be written: {reason}") from error


def write_text(url: str, text: str) -> None:
    with writing(url) as file:
        file.write(text.encode())


def write_json(url: str, found: Any) -> None:
    write_text(url, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
