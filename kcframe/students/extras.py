"""Libraries that only some commands need: an extra of the distribution brings them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from kcframe.errors import PluginError


def need(what: str, extra: str, libraries: Mapping[str, str]) -> None:
    """PluginError if one is missing. what: needs them. libraries: module -> the distribution that has it."""
    for module, library in libraries.items():
        if find_spec(module) is None:
            raise PluginError(f"{what} needs {library}: pip install 'kcframe[{extra}]'")
