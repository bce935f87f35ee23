"""Nested readings as flat names with one number each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any


def scalars(readings: Mapping[str, Any], verticals: Sequence[str]) -> Iterator[tuple[str, float]]:
    """('vertical_loss/Greek', 0.31) and so on: lists of M numbers get the verticals' names."""
    yield from _flat("", readings, verticals)


def _flat(name: str, value: Any, verticals: Sequence[str]) -> Iterator[tuple[str, float]]:
    if isinstance(value, Real) and not isinstance(value, bool):
        yield name, float(value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key != "step":  # the scalars' own axis
                yield from _flat(f"{name}/{key}".lstrip("/"), inner, verticals)
    elif isinstance(value, (list, tuple)) and len(value) == len(verticals):
        for vertical, inner in zip(verticals, value, strict=True):
            yield from _flat(f"{name}/{vertical}", inner, verticals)
