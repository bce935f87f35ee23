"""The registry of plugins: finds a plugin's class by its name.

Built-in plugins use the same hooks as others. Hooks run once, here. A plugin's class is imported when it is
first built, unless the plugin's own module imports it earlier.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pluggy

import kcframe
from kcframe import builtin
from kcframe.errors import PluginError, did_you_mean
from kcframe.interfaces import hookspecs
from kcframe.interfaces.component import Lazy
from kcframe.interfaces.hooks import API, OLDEST_API, PROJECT
from kcframe.interfaces.options import PluginOptions

KINDS = ("data", "teacher", "pacing", "expander", "objective", "backbone", "callback")

BASES = {
    "data": "kcframe.interfaces.data:DataSource",
    "teacher": "kcframe.interfaces.teacher:TeacherSource",
    "pacing": "kcframe.interfaces.pacing:Pacing",
    "expander": "kcframe.interfaces.expander:Expander",
    "objective": "kcframe.interfaces.objective:Objective",
    "backbone": "kcframe.interfaces.backbone:Backbone",
    "callback": "kcframe.interfaces.callback:Callback",
}
"""The base class of each kind of plugin."""


PIN = "KCFRAME_PLUGINS"
"""Environment variable: comma-separated distributions whose plugins are loaded; unset: all of them."""


@dataclass(frozen=True)
class Component:
    """One plugin: its source, its options, and its class or a reference to it."""

    kind: str
    name: str
    summary: str
    options: type[PluginOptions]
    provided: type | Lazy
    distribution: str
    version: str
    where: str = ""  # entry point or file that it comes from

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}' of {self.distribution} {self.version}"

    def load(self) -> type:
        """The plugin's class; imports it if needed. Raises PluginError if that fails."""
        if not isinstance(self.provided, Lazy):
            return self.provided
        try:
            return self.provided.load()
        except Exception as error:  # a plugin's module may raise anything
            raise PluginError(f"{self} cannot be imported: {type(error).__name__}: {error}") from error


class PluginWarning(UserWarning):
    """A plugin is left out because it fails to load."""


class Registry:
    """All plugins that are installed. `Registry.discover()` finds them."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.components: dict[tuple[str, str], Component] = {}
        self.files: list[str] = []
        """Plugin files that were added by path."""
        self.broken: dict[str, str] = {}
        """Distribution -> the reason why its plugins are left out."""
        self.conflicts: dict[tuple[str, str], str] = {}
        """(kind, name) that two distributions use -> the error message."""

    @classmethod
    def discover(cls) -> Registry:
        """A registry with the built-in plugins and those of installed entry points in the group 'kcframe'.

        A distribution that fails to load is left out with a warning. Raises PluginError if $KCFRAME_PLUGINS
        names one that is not installed.
        """
        registry = cls()
        registry.add(builtin, "kcframe", kcframe.__version__, "kcframe.builtin")
        entries = entry_points(group=PROJECT)
        pinned = _pinned({_owner(entry)[0] for entry in entries})
        for entry in entries:
            distribution, version = _owner(entry)
            if pinned is not None and distribution not in pinned:
                continue
            try:
                registry.add(entry.load(), distribution, version, f"entry point {entry.name}: {entry.value}")
            except Exception as error:  # a plugin's module may raise anything
                is_plugin_error = isinstance(error, PluginError)
                why = str(error) if is_plugin_error else f"{type(error).__name__}: {error}"
                registry.broken[distribution] = why
                warnings.warn(
                    f"plugin '{entry.name}' of {distribution} {version} is left out: {why}",
                    PluginWarning,
                    stacklevel=2,
                )
        return registry

    def add(self, module: object, distribution: str, version: str, where: str = "") -> None:
        """Registers a module (or object) with hooks.

        Raises PluginError for a misspelt hook, for a hook of another version of the interfaces, and for a
        return value that is no plugin of the hook's kind; then nothing of the module is registered. If
        another distribution has a plugin of the same name, `get` raises the error.
        """
        owner = f"{distribution} {version}"
        _check_api(module, owner)
        self.manager.register(module, name=f"{distribution}:{getattr(module, '__name__', id(module))}")
        try:
            components = self._components(module, distribution, version, where)
        except Exception:
            self.manager.unregister(module)
            raise
        for component in components:
            key = (component.kind, component.name)
            if other := self.components.get(key):
                self.conflicts[key] = (
                    f"two plugins call themselves {component.kind} '{component.name}': one of "
                    f"{other.distribution} {other.version}, one of {owner}; uninstall one of them, or name "
                    f"in ${PIN} the distributions to load"
                )
            else:
                self.components[key] = component

    def _components(self, module: object, distribution: str, version: str, where: str) -> list[Component]:
        try:
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            hooks = [name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_")]
            wrong = next((name for name in known_hooks(module) if name not in hooks), "")
            hint = f"; {did_you_mean(wrong, hooks)}" if wrong else ""
            raise PluginError(f"{distribution} {version}: {error}{hint}") from error
        components = []
        for kind in KINDS:
            # Call the hooks of this module only, so that the components are those of this distribution.
            implementations = getattr(self.manager.hook, f"kcframe_{kind}").get_hookimpls()
            for implementation in implementations:
                if implementation.plugin is module:
                    for provided in implementation.function() or ():
                        components.append(_component(kind, provided, distribution, version, where))
        return components

    def add_file(self, path: str) -> None:
        """Registers a plugin that is one Python file. Raises PluginError, with the line, if that fails."""
        file = Path(path)
        if not file.is_file():
            near = (
                sorted(candidate.name for candidate in file.parent.glob("*.py"))
                if file.parent.is_dir()
                else []
            )
            raise PluginError(f"--plugin {path}: no such file; {did_you_mean(file.name, near)}")
        spec = importlib.util.spec_from_file_location(f"kcframe_file_{file.stem}", file)
        if spec is None or spec.loader is None:
            raise PluginError(f"--plugin {path}: give a Python file (.py)")
        module = importlib.util.module_from_spec(spec)
        # pickle and dataclasses look the module up by its name.
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            line = error.lineno if isinstance(error, SyntaxError) else frame.lineno
            raise PluginError(f"--plugin {path}:{line}: {type(error).__name__}: {error}") from error
        if not known_hooks(module):
            raise PluginError(
                f"--plugin {path}: no hook is in it: mark a function such as kcframe_pacing with @hookimpl"
            )
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        self.add(module, file.name, digest, str(file))
        self.files.append(str(file))

    # -- the interface for the check of recipes (kcframe.recipe.load.Catalog) ----------------------

    def names(self, kind: str) -> list[str]:
        """Every registered name of a kind, sorted."""
        return sorted(name for k, name in self.components if k == kind)

    def options_schema(self, kind: str, name: str) -> type[PluginOptions] | None:
        if (kind, name) in self.conflicts:
            return None
        component = self.components.get((kind, name))
        return component.options if component else None

    def advice(self, kind: str, name: str) -> str:
        """The error message for a name that is not registered, or registered twice."""
        if (kind, name) in self.conflicts:
            return self.conflicts[kind, name]
        text = f"no {kind} '{name}' is installed; {did_you_mean(name, self.names(kind))}"
        if kind == "backbone":
            text += " (torchvision's models: {name: torchvision, options: {model: …}})"
        for distribution, why in self.broken.items():
            text += f" (the plugins of {distribution} are left out: {why})"
        return text

    # -- building ---------------------------------------------------------------------------------

    def get(self, kind: str, name: str) -> Component:
        """A plugin by name. Raises PluginError, with the nearest name, if there is none."""
        component = self.components.get((kind, name))
        if component is None or (kind, name) in self.conflicts:
            raise PluginError(self.advice(kind, name))
        return component

    def versions(self) -> dict[str, str]:
        """Distribution -> version of every registered plugin, for the run directory."""
        return {c.distribution: c.version for c in self.components.values()}


@cache
def installed() -> Registry:
    """The registry of this process."""
    return Registry.discover()


def known_hooks(module: object) -> list[str]:
    """Names of a module's functions that are marked as hooks."""
    return [name for name, value in vars(module).items() if hasattr(value, "kcframe_api")]


def _check_api(module: object, owner: str) -> None:
    for name in known_hooks(module):
        api = getattr(module, name).kcframe_api
        speaks = f"this kcframe {kcframe.__version__} speaks {OLDEST_API} to {API}"
        if api < OLDEST_API:
            raise PluginError(
                f"{owner}: {name} was written for plugin interfaces {api}, {speaks}: get a newer "
                f"{owner.split()[0]} (CHANGELOG.md says what has changed)"
            )
        if api > API:
            raise PluginError(f"{owner}: {name} needs plugin interfaces {api}, {speaks}: get a newer kcframe")


def _owner(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else (entry.name, "?")


def _pinned(installed: set[str]) -> set[str] | None:
    """The distributions to load; None: all."""
    pinned = os.environ.get(PIN)
    if pinned is None:
        return None
    wanted = {name.strip() for name in pinned.split(",") if name.strip()} - {"kcframe"}
    for name in sorted(wanted - installed):
        raise PluginError(f"${PIN} names '{name}', which is not installed; {did_you_mean(name, installed)}")
    return wanted


def _component(kind: str, provided: object, distribution: str, version: str, where: str) -> Component:
    owner = f"{distribution} {version}"
    if isinstance(provided, Lazy):
        return Component(
            kind=kind,
            name=provided.name,
            summary=provided.summary,
            options=provided.options,
            provided=provided,
            distribution=distribution,
            version=version,
            where=where,
        )
    base = Lazy("", BASES[kind], PluginOptions, "").load()
    if not inspect.isclass(provided) or not issubclass(provided, base):
        raise PluginError(
            f"{owner}: the hook kcframe_{kind} returned {provided!r}: "
            f"return classes derived from {base.__name__}"
        )
    name = getattr(provided, "name", None)
    if not isinstance(name, str) or not name:
        raise PluginError(f'{owner}: {provided.__name__} has no name: give the class a `name = "…"`')
    options = getattr(provided, "Options", None)
    if not inspect.isclass(options) or not issubclass(options, PluginOptions):
        raise PluginError(f"{owner}: {provided.__name__}.Options must derive from PluginOptions")
    summary = (inspect.getdoc(provided) or "").strip().partition("\n")[0]
    return Component(
        kind=kind,
        name=name,
        summary=summary,
        options=options,
        provided=provided,
        distribution=distribution,
        version=version,
        where=where,
    )
