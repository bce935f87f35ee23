"""Where two settings differ."""

from __future__ import annotations

from typing import Any


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted path, old value, new value) of each difference of two pieces of plain data."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(set(old) | set(new)):
            found += differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        return found
    return [] if old == new else [(path, old, new)]
