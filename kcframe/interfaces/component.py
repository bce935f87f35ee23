"""The return values of hooks: plugin classes, or `Lazy` references to them.

A class is simplest. With a `Lazy` reference kcframe can list the plugin and validate its options without
importing the plugin's module (and torch with it). All built-in plugins use `Lazy` references.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from kcframe.interfaces.options import PluginOptions


def label(plugin: object) -> str:
    """Name of a plugin's object in messages: kind, name, distribution, and line of the recipe."""
    return getattr(plugin, "provenance", None) or type(plugin).__name__


@dataclass(frozen=True)
class Lazy:
    """A reference to a plugin, which is imported when it is first built.

    name: the plugin's name in recipes. target: "package.module:Class". options: the class's `Options`.
    summary: one line for `kcframe plugins`.
    """

    name: str
    target: str
    options: type[PluginOptions]
    summary: str

    def load(self) -> type:
        """Imports and returns the class. Raises ImportError or AttributeError if it does not exist."""
        module, _, attribute = self.target.partition(":")
        loaded: type = getattr(import_module(module), attribute)
        return loaded
