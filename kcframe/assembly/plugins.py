"""A recipe's plugin references become objects."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from kcframe.errors import KcframeError, PluginError
from kcframe.interfaces.backbone import Backbone
from kcframe.interfaces.callback import Callback
from kcframe.interfaces.objective import Objective
from kcframe.recipe.schema import PluginRef, Recipe
from kcframe.registry import installed


def construct(kind: str, ref: PluginRef, *arguments: Any) -> Any:
    """Build a plugin: its class, given its checked options and `arguments`.

    What its constructor raises becomes a PluginError that names the plugin, its distribution and the
    recipe's line.
    """
    component = installed().get(kind, ref.name)
    plugin = component.load()
    provenance = f"{ref.line}: {component}" if ref.line else str(component)
    try:
        options = component.options.model_validate(ref.options)
        built = plugin(options, *arguments)
    except KcframeError:
        raise
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        raise PluginError(f"{provenance}: its option '{path}': {first['msg']}") from None
    except Exception as error:  # a stranger's code: anything may come
        raise PluginError(f"{provenance} cannot be built: {type(error).__name__}: {error}") from error
    built.provenance = provenance
    return built


def build_backbone(ref: PluginRef, channels: int, image_size: int) -> Backbone:
    return construct("backbone", ref, channels, image_size)


def build_objective(ref: PluginRef) -> Objective:
    return construct("objective", ref)


def build_callbacks(recipe: Recipe) -> list[Callback]:
    """A stage's callbacks."""
    return [construct("callback", ref) for ref in recipe.callbacks]
