"""Fields of an arm by their paths: lists them, and changes some of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from kcframe.errors import did_you_mean
from kcframe.recipe.document import PLUGIN_KEYS
from kcframe.recipe.schema import Recipe, StudentSpec

OptionsSchema = Callable[[str, str], type[BaseModel] | None]
"""(kind, plugin name) -> its options' model; None if there is no such plugin."""


def searched_arm(recipe: Recipe) -> str:
    """The arm that a search varies: the arm that it names, else the last arm."""
    arm = None if recipe.search is None else recipe.search.arm
    return list(recipe.arms)[-1] if arm is None else arm


def field_paths(tree: Any, prefix: str = "") -> Iterator[str]:
    """Dotted paths of all single values below a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        if isinstance(value, (dict, list)):
            yield from field_paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def with_values(spec: StudentSpec, values: Mapping[str, Any], options_schema: OptionsSchema) -> StudentSpec:
    """A student with some fields changed, and checked again.

    values: dotted path -> value, e.g. {"pacing.options.init": 30.0}. options_schema: (kind, plugin) -> model
    of its options. Raises ValueError, with a message for users, for an unknown path and for an invalid value.
    """
    tree = copy.deepcopy(spec.model_dump(mode="json"))
    paths = list(field_paths(tree))
    for path, value in values.items():
        if path not in paths:
            raise ValueError(f"no field of the arm; {did_you_mean(path, paths)}")
        *parents, last = path.split(".")
        place = tree
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[int(last) if isinstance(place, list) else last] = value
    try:
        for key, kind in PLUGIN_KEYS.items():
            if isinstance(tree.get(key), dict):
                tree[key]["options"] = _checked(kind, tree[key], options_schema)
        for teacher in tree["teachers"]:
            teacher["options"] = _checked("teacher", teacher, options_schema)
        return StudentSpec.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
        raise ValueError(f"{message}, not {first.get('input')!r}") from None


def _checked(kind: str, reference: Mapping[str, Any], options_schema: OptionsSchema) -> dict[str, Any]:
    schema = options_schema(kind, reference["name"])
    if schema is None:
        raise ValueError(f"no {kind} '{reference['name']}' is installed")
    checked: dict[str, Any] = schema.model_validate(reference["options"]).model_dump(mode="json")
    return checked
