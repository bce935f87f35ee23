"""The marker for the functions of a plugin that kcframe calls.

from kcframe.interfaces.hooks import hookimpl

@hookimpl(api=1)
def kcframe_pacing():
    return [MyPacing]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pluggy

PROJECT = "kcframe"

API, OLDEST_API = 1, 1
"""Versions of the plugin interfaces: the current one, and the oldest one that this kcframe supports."""

hookspec = pluggy.HookspecMarker(PROJECT)
_marker = pluggy.HookimplMarker(PROJECT)

Hook = Callable[..., Any]


def hookimpl(function: Hook | None = None, *, api: int = API) -> Any:
    """Marks a function as an implementation of a hook.

    api: the version of the interfaces that the plugin was written for. A kcframe that does not support it
    reports that as an error.
    """

    def marked(implementation: Hook) -> Any:
        implementation.kcframe_api = api  # type: ignore[attr-defined]  # functions carry any attribute
        return _marker(implementation)

    return marked if function is None else marked(function)
