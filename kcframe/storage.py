"""Patience with storage behind a network (what fails now mostly works a little later); whole files here."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from kcframe.errors import KcframeError

Found = TypeVar("Found")

# Seconds between attempts. One that has worked before mostly comes back; one that never has is more likely
# named wrongly.
PAUSES, PAUSES_AT_FIRST = (0.5, 1, 2, 4, 8, 15, 30, 60), (0.5, 1, 2)
URL = re.compile(r"[a-z0-9+]+://[^\s'\"<>]+")
HOPELESS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def patiently(action: Callable[[], Found], pauses: Sequence[float]) -> Found:
    """What `action` gives, tried again after each pause. Raises what it raised last, or at once what no
    waiting mends."""
    for pause in pauses:
        try:
            return action()
        except (*HOPELESS, KcframeError):
            raise
        except Exception:  # each storage raises its own
            time.sleep(pause)
    return action()


def without_secrets(url: str) -> str:
    """A URL as it may be shown: without user and password, and on the web without its query."""
    protocol, there, rest = url.partition("://")
    if not there:
        return url
    host, slash, path = rest.partition("/")
    if protocol in ("http", "https"):
        path = path.partition("?")[0].partition("#")[0]
    return f"{protocol}://{host.rpartition('@')[2]}{slash}{path}"


def explained(error: Exception) -> str:
    """What an error says, without the secrets of URLs in it."""
    return f"{type(error).__name__}: {URL.sub(lambda found: without_secrets(found.group()), str(error))}"


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Another file beside `target`, to be filled; it takes target's place when the block ends without an
    error, so that a reader sees the old one or the new one, never a part."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
