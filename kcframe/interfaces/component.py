"""What a hook may return: a plugin class, or a `Lazy` reference to one.

A class is simplest. A `Lazy` reference lets kcframe list the plugin and validate its options without
importing the plugin's module (and with it torch); the built-in plugins are all given this way.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from kcframe.interfaces.options import PluginOptions


def label(plugin: object) -> str:
    """What to call a plugin's object in messages: kind, name, distribution and the recipe's line."""
    return getattr(plugin, "provenance", None) or type(plugin).__name__


@dataclass(frozen=True)
class Lazy:
    """A plugin that is imported when it is first built.

    name: as a recipe says it. target: "package.module:Class". options: the class's `Options`.
    summary: one line for `kcframe plugins`.
    """

    name: str
    target: str
    options: type[PluginOptions]
    summary: str

    def load(self) -> type:
        """Import and return the class. Raises ImportError or AttributeError if it is not there."""
        module, _, attribute = self.target.partition(":")
        loaded: type = getattr(import_module(module), attribute)
        return loaded
