"""Backends by name, each imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kcframe.backends.base import Backend

BACKENDS = {"local": "kcframe.backends.local:LocalBackend", "ray": "kcframe.backends.ray.backend:RayBackend"}


def get_backend(name: str) -> Backend:
    """A backend, built."""
    module, _, attribute = BACKENDS[name].partition(":")
    return getattr(import_module(module), attribute)()
