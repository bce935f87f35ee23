"""Plugin names become classes.

Built-in plugins come in through the same hooks as anyone's. Hooks run once, here; nothing imports a
plugin's class before it is built, unless the plugin's own module does.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points

import pluggy

import kcframe
from kcframe import builtin, hookspecs
from kcframe.errors import PluginError, did_you_mean
from kcframe.interfaces.component import Lazy
from kcframe.interfaces.hooks import PROJECT
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
"""The class that every plugin of a kind derives from."""


@dataclass(frozen=True)
class Component:
    """One plugin: where it comes from, its options, and how to get its class."""

    kind: str
    name: str
    summary: str
    options: type[PluginOptions]
    provided: type | Lazy
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}' of {self.distribution} {self.version}"

    def load(self) -> type:
        """The plugin's class, imported now if it was not. Raises PluginError if that fails."""
        if not isinstance(self.provided, Lazy):
            return self.provided
        try:
            return self.provided.load()
        except (ImportError, AttributeError) as error:
            raise PluginError(f"{self} cannot be imported: {error}") from error


class Registry:
    """All plugins that are installed. `Registry.discover()` finds them."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.components: dict[tuple[str, str], Component] = {}
        self.broken: dict[str, str] = {}

    @classmethod
    def discover(cls) -> Registry:
        """The built-in plugins and those of the installed entry points in the group 'kcframe'."""
        registry = cls()
        registry.add(builtin, "kcframe", kcframe.__version__)
        for entry in entry_points(group=PROJECT):
            distribution = entry.dist.name if entry.dist else entry.name
            version = entry.dist.version if entry.dist else "?"
            try:
                registry.add(entry.load(), distribution, version)
            except PluginError:
                raise
            except Exception as error:  # anything at all may happen in a stranger's module
                registry.broken[distribution] = f"{type(error).__name__}: {error}"
                warnings.warn(
                    f"plugin '{entry.name}' of {distribution} {version} is left out, it does not load: "
                    f"{type(error).__name__}: {error}",
                    stacklevel=2,
                )
        return registry

    def add(self, module: object, distribution: str, version: str) -> None:
        """Register a module (or object) with hooks. Raises PluginError for a misspelt hook, a name that
        another distribution has already, or something that is no plugin of the hook's kind."""
        self.manager.register(module, name=f"{distribution}:{getattr(module, '__name__', id(module))}")
        try:
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(f"{distribution} {version}: {error}") from error
        for kind in KINDS:
            # Asked one plugin at a time, so that what comes back is known to be this distribution's.
            implementations = getattr(self.manager.hook, f"kcframe_{kind}").get_hookimpls()
            returned = [impl.function() for impl in implementations if impl.plugin is module]
            for provided in (each for found in returned for each in found or ()):
                component = _component(kind, provided, distribution, version)
                key = (kind, component.name)
                if other := self.components.get(key):
                    raise PluginError(
                        f"two plugins call themselves {kind} '{component.name}': one of {other.distribution} "
                        f"{other.version}, one of {distribution} {version}; uninstall one of them"
                    )
                self.components[key] = component

    # -- what a recipe's check asks (kcframe.recipe.load.Catalog) ---------------------------------

    def names(self, kind: str) -> list[str]:
        """Every registered name of a kind, sorted."""
        return sorted(name for k, name in self.components if k == kind)

    def options_schema(self, kind: str, name: str) -> type[PluginOptions] | None:
        component = self.components.get((kind, name))
        return component.options if component else None

    def advice(self, kind: str, name: str) -> str:
        """What to say of a name that is not registered."""
        said = f"no {kind} '{name}' is installed; {did_you_mean(name, self.names(kind))}"
        if kind == "backbone":
            said += " (torchvision's models: {name: torchvision, options: {model: …}})"
        for distribution, why in self.broken.items():
            said += f" (the plugins of {distribution} did not load: {why})"
        return said

    # -- building ---------------------------------------------------------------------------------

    def get(self, kind: str, name: str) -> Component:
        """A plugin by name; PluginError with the nearest name if there is none."""
        if (component := self.components.get((kind, name))) is None:
            raise PluginError(self.advice(kind, name))
        return component

    def versions(self) -> dict[str, str]:
        """Distribution -> version of every registered plugin, for the run directory."""
        return {c.distribution: c.version for c in self.components.values()}


@cache
def installed() -> Registry:
    """The registry of this process."""
    return Registry.discover()


def _component(kind: str, provided: object, distribution: str, version: str) -> Component:
    owner = f"{distribution} {version}"
    if isinstance(provided, Lazy):
        return Component(
            kind, provided.name, provided.summary, provided.options, provided, distribution, version
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
    options = provided.Options
    if not inspect.isclass(options) or not issubclass(options, PluginOptions):
        raise PluginError(f"{owner}: {provided.__name__}.Options must derive from PluginOptions")
    summary = (inspect.getdoc(provided) or "").strip().partition("\n")[0]
    return Component(kind, name, summary, options, provided, distribution, version)
