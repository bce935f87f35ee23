"""The data source of a recipe, built once a process."""

from __future__ import annotations

from functools import lru_cache

from kcframe.assembly.plugins import construct
from kcframe.interfaces.data import DataSource
from kcframe.interfaces.toolkit.transform import Transform
from kcframe.recipe.schema import PluginRef, Recipe


@lru_cache(maxsize=2)
def _source(ref_json: str, line: str) -> DataSource:
    ref = PluginRef.model_validate_json(ref_json)
    return construct("data", ref.model_copy(update={"line": line}))


def build_source(recipe: Recipe) -> DataSource:
    """The data source; kept, since stages that follow each other in a process share it."""
    return _source(recipe.data.model_dump_json(), recipe.data.line)


def transform_of(source: DataSource) -> Transform:
    """What a picture from elsewhere goes through before a network that learned from this source."""
    return source.transform or Transform(channels=source.channels, image_size=source.image_size)
