"""The part of a recipe that decides what a stage produces: today's, and what an earlier kcframe wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from kcframe.recipe.document import PLUGIN_KEYS, PLUGIN_LISTS
from kcframe.recipe.schema import Evaluation, PluginRef, Recipe, Specialists, StudentSpec
from kcframe.registry import installed

NO_EFFECT = {"log_every", "evaluate_every", "checkpoint_every"}  # on what a network becomes


def shared_settings(recipe: Recipe) -> dict[str, Any]:
    """What decides about every network of a recipe."""
    settings: dict[str, Any] = {"seed": recipe.seed, "data": _plain(recipe.data)}
    if recipe.evaluation.split != "test":
        settings["evaluation"] = _plain(recipe.evaluation)
    return settings


def specialists_settings(specialists: Specialists) -> dict[str, Any]:
    """What decides about the specialists."""
    return _decisive(_plain(specialists))


def arm_settings(spec: StudentSpec, asks_teachers: bool) -> dict[str, Any]:
    """What decides about an arm: its teachers do only if it asks them."""
    settings = _decisive(_plain(spec))
    if not asks_teachers:
        del settings["teachers"]
    return settings


def fingerprint(settings: dict[str, Any]) -> str:
    """A short hash of a stage's settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def as_today(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that an earlier kcframe wrote, as this one would write them: fields and options that have come
    since have their defaults. What no schema of today accepts stays as it is, and so is told as a change."""
    filled = dict(settings)
    for key, fill in _SECTIONS.items():
        if isinstance(settings.get(key), dict):
            filled[key] = fill(settings[key])
    return filled


def _arm_as_today(arm: dict[str, Any]) -> dict[str, Any]:
    filled = _decisive(_through(StudentSpec, arm))
    if "teachers" not in arm:
        filled.pop("teachers", None)
    return filled


_SECTIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "data": lambda data: _with_options("data", _through(PluginRef, data)),
    "evaluation": lambda evaluation: _through(Evaluation, evaluation),
    "specialists": lambda specialists: _decisive(_through(Specialists, specialists)),
    "arm": _arm_as_today,
}


def _through(model: type[BaseModel], tree: dict[str, Any]) -> dict[str, Any]:
    try:
        filled = _plain(model.model_validate(tree))
    except ValidationError:
        return tree
    for key, kind in PLUGIN_KEYS.items():
        if isinstance(filled.get(key), dict):
            filled[key] = _with_options(kind, filled[key])
    for key, kind in PLUGIN_LISTS.items():
        if isinstance(filled.get(key), list):
            filled[key] = [_with_options(kind, ref) for ref in filled[key]]
    return filled


def _with_options(kind: str, ref: dict[str, Any]) -> dict[str, Any]:
    schema = installed().options_schema(kind, ref.get("name", ""))
    if schema is None:
        return ref
    try:
        return {**ref, "options": schema.model_validate(ref["options"]).model_dump(mode="json")}
    except ValidationError:
        return ref


def _plain(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json")


def _decisive(section: dict[str, Any]) -> dict[str, Any]:
    """Without what changes nothing that is learned."""
    if not isinstance(section.get("train"), dict):
        return section
    train = {name: value for name, value in section["train"].items() if name not in NO_EFFECT}
    return {**section, "train": train}
