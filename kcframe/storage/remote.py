"""Files on remote storage: requests are retried after pauses, and messages never show a URL's secrets."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from kcframe.errors import DataError, KcframeError

if TYPE_CHECKING:
    import fsspec

Result = TypeVar("Result")

# Seconds between attempts. A storage that has worked before will probably work again; for the first request a
# wrong name is more likely, so there are fewer attempts.
PAUSES, PAUSES_AT_FIRST = (0.5, 1, 2, 4, 8, 15, 30, 60), (0.5, 1, 2)
URL = re.compile(r"[a-z0-9+.-]+://[^\s'\"<>]+", re.IGNORECASE)
CHAINED = re.compile(r"::(?=[a-z0-9+.-]+(?:::|://|$))", re.IGNORECASE)
"""fsspec's separator between chained URLs, for example of a cache or a zip file and the address inside."""
USER = re.compile(r"^[^/?#@]*@|^[^/?#@:]*:(?!\d*[/?#]).*@")
"""User and password before a host, also if they contain / ? # that are not written as %2F %3F %23."""
HOPELESS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
GONE, REFUSED = (404, 410), (401, 403, 407)  # HTTP status codes

S3 = {
    "connect_timeout": 10,
    "read_timeout": 60,
    "retries": {"max_attempts": 4, "mode": "standard"},
    "max_pool_connections": 64,
}


def storage_options(url: str, anonymous: bool) -> dict[str, object]:
    """Options for a storage: timeouts and retries for s3. anonymous: do not use credentials."""
    if not url.startswith(("s3://", "s3a://")):
        return {}
    return {"anon": anonymous, "config_kwargs": S3}


def patiently(action: Callable[[], Result], pauses: Sequence[float]) -> Result:
    """Returns the result of `action`; after an error, waits for the next pause and tries again.

    Raises the last error. An error that a retry cannot mend (HOPELESS, KcframeError) is raised at once.
    """
    for pause in pauses:
        try:
            return _told_rightly(action)
        except (*HOPELESS, KcframeError):
            raise
        except Exception:  # each storage raises its own
            time.sleep(pause)
    return _told_rightly(action)


def _told_rightly(action: Callable[[], Result]) -> Result:
    """Runs `action`; over HTTP, replaces fsspec's errors, which often are wrong, by the real ones.

    fsspec reports any HTTP error as a missing file in some calls, and a missing file as some other error in
    others.
    """
    try:
        return action()
    except Exception as error:  # each storage raises its own
        cause = error.__cause__ if isinstance(error, FileNotFoundError) else error
        if not isinstance(cause, Exception) or not _of_the_web(cause):
            raise
        status = getattr(cause, "status", None)
        if status in GONE:
            raise FileNotFoundError(str(cause)) from None
        if status in REFUSED:
            raise PermissionError(str(cause)) from None
        raise cause from None


def _of_the_web(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] == "aiohttp" or isinstance(error, TimeoutError)


def is_there(storage: fsspec.AbstractFileSystem, path: str) -> bool:
    """Whether a storage has a file or folder. Unlike its `exists`, raises an error if the storage fails."""
    try:
        _told_rightly(lambda: storage.info(path))
    except FileNotFoundError:
        return False
    return True


def marks_of(info: Mapping[str, object]) -> list[str]:
    """Texts that change when a file does, from a storage's `info`. Each storage has some of the keys."""
    marks = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "Last-Modified", "created")
    return [str(info.get(key)) for key in marks]


def read_file(url: str, option: str, anonymous: bool = False) -> bytes:
    """A whole file of any storage. option: the option with its name. Raises DataError, without secrets."""
    import fsspec

    shown = without_secrets(url)
    try:
        storage, path = fsspec.url_to_fs(url, **storage_options(url, anonymous))
        return patiently(lambda: storage.cat_file(path), PAUSES_AT_FIRST if "://" in url else ())
    except FileNotFoundError:
        raise DataError(f"{option}: no file '{shown}'") from None
    except Exception as error:  # each storage raises its own
        raise DataError(f"{shown}: cannot be read: {explained(error)}") from None


def as_text(data: bytes, name: str) -> str:
    """A file's text. Raises DataError, with the line, if it is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}: line {line}: not UTF-8 text; save it as UTF-8 (spreadsheets: 'CSV UTF-8')"
        ) from None


def without_secrets(url: str) -> str:
    """A URL for messages: without user and password and, for http(s), without its query."""
    return "::".join(map(_shown, CHAINED.split(url)))


def _shown(part: str) -> str:
    protocol, there, rest = part.partition("://")
    if not there:
        return part
    rest = USER.sub("", rest)
    if protocol.lower() in ("http", "https"):
        rest = re.split("[?#]", rest, maxsplit=1)[0]
    return f"{protocol}://{rest}"


def explained(error: Exception) -> str:
    """The text of an error, without the secrets of URLs in it."""
    return f"{type(error).__name__}: {URL.sub(lambda match: without_secrets(match.group()), str(error))}"
