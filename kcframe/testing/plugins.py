"""Plugins by name: built for a test, and listed in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from kcframe.assembly.plugins import construct
from kcframe.recipe.schema import PluginRef

LIST_MODULES = """
import json, sys
from kcframe.registry import installed
kind, name = sys.argv[1:]
installed_here = installed().options_schema(kind, name) is not None
print(json.dumps({"installed": installed_here, "modules": list(sys.modules)}))
"""


def build_plugin(kind: str, name: str, *arguments: Any, options: Mapping[str, Any] | None = None) -> Any:
    """Build an installed plugin, for example a built-in one to use beside your own.

        build_plugin("pacing", "self-paced", sizes, sum(sizes), options={"start": "base-rate"})

    kind: as in `kcframe plugins`. arguments: what the class's constructor takes after its options. options:
    as in a recipe. Raises PluginError if the plugin is not installed, an option is wrong, or the class cannot
    be built.
    """
    return construct(kind, PluginRef(name=name, options=dict(options or {})), *arguments)


def modules_loaded_for_options(kind: str, name: str) -> set[str]:
    """The names of all modules that a fresh Python process has loaded once it knows a plugin's options.

    `kcframe plugins` and the check of a recipe need no more than these options, and should not wait for torch
    or for the plugin's own library. Raises LookupError if no such plugin is installed.
    """
    command = [sys.executable, "-c", LIST_MODULES, kind, name]
    process = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own command
    answer = json.loads(process.stdout.splitlines()[-1])
    if not answer["installed"]:
        raise LookupError(f"no {kind} plugin has the name '{name}'")
    return set(answer["modules"])
