"""Compares two pieces of plain data."""

from __future__ import annotations

from typing import Any


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted path, old value, new value) of each difference."""
    if isinstance(old, dict) and isinstance(new, dict):
        changes = []
        for key in sorted(set(old) | set(new)):
            changes += differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        return changes
    return [] if old == new else [(path, old, new)]
