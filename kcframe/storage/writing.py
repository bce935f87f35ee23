"""Writes files to any fsspec URL. A file appears when it is complete, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from kcframe.errors import RunDirError
from kcframe.storage.remote import explained, without_secrets


@contextmanager
def writing(url: str) -> Iterator[IO[bytes]]:
    """A file to write to; it appears at `url` when the block ends without an error.

    Raises RunDirError with its name if it cannot be written; if possible, before the block begins.
    """
    try:
        storage, path = fsspec.url_to_fs(url)
        local = isinstance(storage, LocalFileSystem)
        part = _beside(path) if local else tempfile.TemporaryFile()  # noqa: SIM115 - below
    except Exception as error:  # each storage raises its own
        raise _refused(url, error) from error
    with part:
        try:
            yield part
        except BaseException:
            if local:
                os.unlink(part.name)
            raise
        try:
            part.flush()
            if local:
                os.replace(part.name, path)
            else:
                part.seek(0)
                with storage.open(path, "wb") as target:
                    shutil.copyfileobj(part, target)
        except Exception as error:  # each storage raises its own
            raise _refused(url, error) from error


def _beside(path: str) -> IO[bytes]:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise IsADirectoryError(21, "is a folder")
    return target.with_name(f".{target.name}.{os.getpid()}.part").open("wb")


def _refused(url: str, error: Exception) -> RunDirError:
    reason = getattr(error, "strerror", None) or explained(error)
    return RunDirError(f"{without_secrets(url)}: cannot be written: {reason}")


def write_text(url: str, text: str) -> None:
    with writing(url) as file:
        file.write(text.encode())


def write_json(url: str, content: Any) -> None:
    write_text(url, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """The path of a new file next to `target`. It replaces `target` when the block ends without an error.

    So a reader sees the old file or the new one, never a part.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
