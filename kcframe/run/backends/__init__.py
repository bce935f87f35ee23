"""Backends by name, each imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from kcframe.errors import RecipeError

if TYPE_CHECKING:
    from kcframe.run.backends.base import Backend

BACKENDS = {
    "local": "kcframe.run.backends.local:LocalBackend",
    "ray": "kcframe.run.backends.ray.backend:RayBackend",
}


def get_backend(name: str) -> Backend:
    """A backend, built. Raises RecipeError if what it needs is not installed."""
    module, _, attribute = BACKENDS[name].partition(":")
    try:
        return getattr(import_module(module), attribute)()
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"execution.backend: {name} needs the package {error.name}, which is not installed here: "
            f"pip install {error.name}, or use --backend local"
        ) from None
