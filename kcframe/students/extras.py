"""Checks for libraries that only some commands need; an extra of the distribution installs them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from kcframe.errors import PluginError


def need(what: str, extra: str, libraries: Mapping[str, str]) -> None:
    """Raises PluginError if one is missing. what: needs them. libraries: module -> its distribution."""
    for module, library in libraries.items():
        if find_spec(module) is None:
            raise PluginError(f"{what} needs {library}: pip install 'kcframe[{extra}]'")
