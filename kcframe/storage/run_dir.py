"""A run directory: whole files below any fsspec URL. Module `layout` has the names of its files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kcframe.errors import RunDirError, StorageError
from kcframe.storage.remote import PAUSES, PAUSES_AT_FIRST, explained, patiently, without_secrets
from kcframe.storage.writing import replacing


class RunDir:
    """Reads and writes whole files. A file is complete or does not exist.

    Raises RunDirError with the URL if the storage fails.
    """

    def __init__(self, url: str | os.PathLike[str]):
        url = os.fspath(url)
        self.local = "://" not in url or url.startswith("file://")
        if self.local:
            url = str(Path(url.removeprefix("file://")).expanduser().absolute())
        self.url = url.rstrip("/")
        self._filesystem = None
        self._has_worked = False

    def __str__(self) -> str:
        return without_secrets(self.url)

    def path(self, name: str) -> str:
        """URL of a file, for opening it. It contains user and password if the directory's URL does."""
        return f"{self.url}/{name}"

    def shown(self, name: str) -> str:
        """URL of a file, for messages, without user and password."""
        return without_secrets(self.path(name))

    def exists(self, name: str) -> bool:
        return self._try(name, "looked for", lambda: self._fs.exists(self.path(name)))

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if it is not there."""
        if not self.exists(name):
            return None
        return self._try(name, "looked at", lambda: self._fs.size(self.path(name)))

    def read(self, name: str) -> bytes:
        """Bytes of a file. Raises RunDirError if it does not exist."""
        return self._try(name, "read", lambda: self._fs.cat_file(self.path(name)))

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise RunDirError(
                f"{self.shown(name)}: damaged, not JSON ({error}); delete it to make it anew"
            ) from None

    def write(self, name: str, content: bytes | str) -> None:
        """Replaces a file atomically: a reader sees the old or the new one, never a part."""
        data = content.encode() if isinstance(content, str) else content
        self._try(name, "written", lambda: self._write(name, data))

    def _write(self, name: str, data: bytes) -> None:
        if not self.local:
            self._fs.pipe_file(self.path(name), data)  # an object appears when its upload is complete
            return
        with replacing(Path(self.path(name))) as part, part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def write_json(self, name: str, value: Any) -> None:
        # JSON has no nan: a missing value is null.
        self.write(name, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")

    def delete(self, name: str) -> None:
        """Deletes a file if it exists."""
        if self.exists(name):
            self._try(name, "deleted", lambda: self._fs.rm_file(self.path(name)))

    def delete_folder(self, name: str) -> None:
        """Deletes a folder with everything in it, if it exists."""
        if self.exists(name):
            self._try(name, "deleted", lambda: self._fs.rm(self.path(name), recursive=True))

    def delete_folder_if_empty(self, name: str) -> None:
        """Deletes a folder, with its files, if it has no folders."""
        if not self.folders(name):
            self.delete_folder(name)

    def folders(self, parent: str) -> list[str]:
        """Names of the folders in a folder, sorted; empty if it does not exist."""
        return self._names(parent, "directory")

    def files(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; empty if it does not exist."""
        return self._names(folder, "file")

    def files_below(self, folder: str) -> list[str]:
        """Paths of all files below a folder, relative to it, sorted; empty if it does not exist."""

        def listed() -> list[str]:
            self._fs.invalidate_cache()
            start = self._fs._strip_protocol(self.path(folder)).rstrip("/") + "/"
            return sorted(name.removeprefix(start) for name in self._fs.find(start))

        return self._try(folder, "listed", listed)

    def _names(self, folder: str, kind: str) -> list[str]:
        def listed() -> list[str]:
            self._fs.invalidate_cache()
            if not self._fs.exists(self.path(folder)):
                return []
            entries = self._fs.ls(self.path(folder), detail=True)
            return sorted(e["name"].rstrip("/").rsplit("/", 1)[-1] for e in entries if e["type"] == kind)

        return self._try(folder, "listed", listed)

    @property
    def _fs(self):
        if self._filesystem is None:
            import fsspec

            try:
                self._filesystem = fsspec.url_to_fs(self.url)[0]
            except (ImportError, ValueError) as error:
                raise RunDirError(f"run directory {self}: {error}") from None
        return self._filesystem

    def _try(self, name: str, done: str, action):
        pauses = () if self.local else PAUSES if self._has_worked else PAUSES_AT_FIRST
        try:
            result = patiently(action, pauses)
        except FileNotFoundError:
            what = "no such file" if done == "read" else f"cannot be {done}: no such bucket or folder"
            raise RunDirError(f"{self.shown(name)}: {what}") from None
        except RunDirError:
            raise
        except Exception as error:  # each storage raises its own
            raise StorageError(f"{self.shown(name)}: cannot be {done}: {explained(error)}") from error
        self._has_worked = True
        return result
